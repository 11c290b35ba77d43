import assert from 'node:assert/strict'
import { utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { BlockServer } from '../blocks/server/protocol.ts'
import { openTestServer } from '../blocks/server/testing.ts'
import { fresh, storeBuild, testBuildId } from '../blocks/testing.ts'
import { seededRandom } from '../kit/random.ts'
import { findLayer, layerReference } from './layers.ts'

test('a layer that is found counts as used now, so that it does not go with those that nobody uses', async () => {
  await using server = await openTestServer()
  const build = testBuildId('layer')
  const key = 'a'.repeat(64)
  const reference = layerReference(key)
  await storeBuild(server.content, build, fresh(seededRandom('bytes'), 64 * 1024), { reference })
  const file = join(server.content.directory, 'refs', `${reference}.json`)
  const old = new Date(Date.now() - 40 * 24 * 3_600_000)
  const blocks = { ask: server.ask } as unknown as BlockServer
  const scope = { parts: { blocks }, signal: AbortSignal.timeout(10_000) }
  await utimes(file, old, old)
  assert.equal((await findLayer(scope, key))?.id, build)
  assert.deepEqual((await server.ask('collect', {})).layers, { kept: 1, removed: [] })
  await utimes(file, old, old)
  assert.deepEqual((await server.ask('collect', {})).layers, { kept: 0, removed: [reference] })
  assert.equal(await findLayer(scope, key), undefined)
})
