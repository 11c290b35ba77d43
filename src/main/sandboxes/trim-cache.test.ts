import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import { silentLog } from '../../kit/log.ts'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import { collectBuilds } from './collect-builds.ts'
import { trimCache } from './trim-cache.ts'

const minute = 60_000

function world(bytes: number, freeBytes = 5000) {
  const asked: { name: string; request: unknown }[] = []
  const answers: Record<string, object> = {
    usage: { bytes },
    trim: { bytesBefore: bytes, bytesAfter: 0, packs: 1 },
    collect: { removed: { bytes: 0 }, layers: { kept: 0, removed: [] }, problems: [] },
  }
  const ask = async (name: string, request: unknown) => {
    asked.push({ name, request })
    return answers[name]
  }
  const clock = new SteppedClock()
  const end = new AbortController()
  const options = { disk: async () => ({ freeBytes, totalBytes: 10_000 }), clock, log: silentLog, signal: end.signal }
  return { asked, blocks: { ask } as unknown as BlockServer, clock, options, end }
}

test('a cache is looked at every five minutes, and trimmed only when it takes more than it may', async () => {
  const { asked, blocks, clock, options, end } = world(1000)
  const trimming = trimCache(blocks, { ...options, limitBytes: 900 })
  await clock.advance(5 * minute)
  assert.deepEqual(asked, [
    { name: 'usage', request: {} },
    { name: 'trim', request: { highBytes: 900, lowBytes: 720 } },
  ])
  end.abort()
  await trimming
  const small = world(800)
  const looking = trimCache(small.blocks, { ...small.options, limitBytes: 900 })
  await small.clock.advance(10 * minute)
  assert.deepEqual(
    small.asked.map(({ name }) => name),
    ['usage', 'usage'],
  )
  small.end.abort()
  await looking
})

test('builds are collected every hour while there is room on the disk', async () => {
  const { asked, blocks, clock, options, end } = world(0)
  const collecting = collectBuilds(blocks, options)
  await clock.advance(59 * minute)
  assert.deepEqual(asked, [])
  await clock.advance(2 * minute)
  assert.deepEqual(asked, [{ name: 'collect', request: {} }])
  end.abort()
  await collecting
})

test('while the disk is nearly full they are collected every ten minutes, and layers stay for a day', async () => {
  const { asked, blocks, clock, options, end } = world(0, 500)
  const collecting = collectBuilds(blocks, options)
  await clock.advance(10 * minute)
  assert.deepEqual(asked, [{ name: 'collect', request: { layerAgeMs: 24 * 60 * minute, graceMs: 60 * minute } }])
  end.abort()
  await collecting
})
