import assert from 'node:assert/strict'
import { duplexPair, Readable, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import type { SandboxOffer } from './offer.ts'
import { sandboxStreamServices } from './services.ts'

test('a file that the guest refuses half-way is answered with the reason, not broken off', async () => {
  let room = 100_000
  const into = new Writable({
    write(chunk: Buffer, _encoding, done) {
      room -= chunk.length
      done(room < 0 ? new Fault('exhausted', 'cannot write "/big": no space left on device') : null)
    },
  })
  const written = new Promise<void>(() => {})
  const channel = { files: { write: async () => Object.assign(into, { written }) } }
  const offer = { open: async () => ({ sandboxes: { guest: async () => ({ channel }) } }) } as unknown as SandboxOffer
  const [ours, theirs] = duplexPair()
  const ask = { op: 'write', id: '0123456789abcdef', path: '/big' }
  const served = sandboxStreamServices(offer, { clock: systemClock }).sandboxFile(ask, theirs, {
    signal: new AbortController().signal,
  })
  Readable.from(Array.from({ length: 8 }, () => Buffer.alloc(32_768))).pipe(ours)
  await served
  assert.deepEqual(JSON.parse(await text(ours)), {
    fault: { code: 'exhausted', message: 'cannot write "/big": no space left on device' },
  })
})
