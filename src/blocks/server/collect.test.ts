import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../../kit/random.ts'
import type { Manifest } from '../manifest.ts'
import { fileObjects } from '../objects/file.ts'
import { copyBuild } from '../operations/copy.ts'
import { readBuilds } from '../operations/source.ts'
import { fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from '../testing.ts'
import { openTestServer, type TestServer } from './testing.ts'

const content = fresh(seededRandom('bytes'), 40 * 16 * 1024)
const build = testBuildId('build')

/** Copies `build` into the directory of a server that runs, as another process does. */
async function copyInto(server: TestServer): Promise<Manifest> {
  await using elsewhere = await temporaryDirectory()
  await using from = await openTestStore(elsewhere.path)
  const manifest = await storeBuild(from, build, content)
  const { directory } = server.content
  await copyBuild(readBuilds(from.objects), fileObjects({ directory, random: seededRandom('copy') }), build)
  return manifest
}

test('a build that is copied into the directory of a block server that runs can be read there', async () => {
  await using server = await openTestServer()
  const manifest = await copyInto(server)
  await server.ask('adopt', { manifest, reference: `build/${build}` })
  assert.ok((await readDisk(server.content, build)).equals(content))
  assert.equal((await server.ask('reference', { name: `build/${build}` })).build, build)
})

test('a build is not adopted when one of its packs was removed meanwhile', async () => {
  await using server = await openTestServer()
  const manifest = await copyInto(server)
  await rm(join(server.content.directory, 'builds', `${build}.json`))
  await rm(join(server.content.directory, 'packs', manifest.packs[0] ?? ''))
  await assert.rejects(server.ask('adopt', { manifest, reference: `build/${build}` }), {
    code: 'conflict',
    message: /pack [0-9a-f]{64} of build .* is missing/,
  })
  assert.equal((await server.ask('reference', { name: `build/${build}` })).build, null)
})

test('a collection without grace waits for the build that is being made, and leaves what it relies on', async () => {
  await using server = await openTestServer()
  const parent = await storeBuild(server.content, build, content)
  await server.ask('collect', { graceMs: 0 })
  const writer = await server.content.write({ basedOn: parent })
  const collecting = server.ask('collect', { graceMs: 0 })
  const chunkBytes = 16 * 1024
  const ids = await Promise.all(
    Array.from({ length: 40 }, (_, n) => writer.add(content.subarray(n * chunkBytes, (n + 1) * chunkBytes))),
  )
  const disk = await writer.image({ size: content.length, chunkBytes }, (n) => ids[n] as Uint8Array)
  const { format: _format, packs: _packs, addedBytes: _added, ...rest } = parent
  const second = testBuildId('second')
  await writer.publish({ ...rest, id: second, disk })
  await server.content.setReference('second', second)
  await writer[Symbol.asyncDispose]()
  const report = await collecting
  assert.deepEqual(report.removed.builds, [build])
  assert.ok((await readDisk(server.content, second)).equals(content))
})

test('what chunks take is told, and trimming without a shared store removes nothing, since all is the only copy', async () => {
  await using server = await openTestServer()
  await storeBuild(server.content, build, content)
  const before = await server.ask('usage', {})
  assert.ok(before.bytes > content.length / 2)
  assert.deepEqual([before.fetchedBytes, before.downloadedBytes, before.readBytes], [0, 0, 0])
  const { bytesAfter, packs } = await server.ask('trim', { highBytes: 0, lowBytes: 0 })
  assert.deepEqual([bytesAfter, packs], [before.bytes, 0])
  await server.ask('openDisk', { name: 'one', from: { build } })
  assert.equal((await server.ask('usage', {})).writtenBytes, 0)
})

test('trimming leaves what is open, takes what the store has, and it comes back when it is read', async () => {
  await using bucket = await temporaryDirectory()
  const behind = fileObjects({ directory: bucket.path, random: seededRandom('bucket') })
  await using server = await openTestServer({ behind })
  const other = testBuildId('other')
  const different = fresh(seededRandom('different'), content.length)
  await storeBuild(server.content, build, content, { reference: 'one' })
  await storeBuild(server.content, other, different, { reference: 'two' })
  for (const id of [build, other]) await copyBuild(readBuilds(server.content.objects), behind, id)
  await server.ask('openDisk', { name: 'disk', from: { build } })
  const before = await server.ask('usage', {})
  const trimmed = await server.ask('trim', { highBytes: 0, lowBytes: 0 })
  assert.ok(trimmed.packs > 0)
  assert.ok(trimmed.bytesAfter > content.length / 2, 'what is open went')
  assert.ok(trimmed.bytesAfter < before.bytes)
  assert.ok((await readDisk(server.content, build)).equals(content))
  assert.equal((await server.ask('usage', {})).downloadedBytes, 0)
  assert.ok((await readDisk(server.content, other)).equals(different))
  assert.ok((await server.ask('usage', {})).downloadedBytes > 0)
})
