import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../../kit/random.ts'
import { diskChunkBytes } from '../manifest.ts'
import { fresh, readDisk, storeBuild, testBuildId } from '../testing.ts'
import { openTestServer, qemuIo, run, storeRequest, uri, without } from './testing.ts'

const skip = without('qemu-io', 'qemu-img', 'nbdinfo')

test('a disk of a build reads as the build, and takes what is written', { skip }, async () => {
  await using server = await openTestServer()
  const bytes = fresh(seededRandom('disk'), 300_000 - (300_000 % 512))
  const build = testBuildId('template')
  await storeBuild(server.content, build, bytes, { chunkBytes: diskChunkBytes })
  const { socket, size } = await server.ask('openDisk', { name: 'a', from: { build }, size: 1 << 20 })
  assert.equal(size, 1 << 20)
  assert.deepEqual(await server.ask('openDisk', { name: 'a', from: { build } }), { socket, size })
  const info = JSON.parse(await run('nbdinfo', '--json', uri(socket)))
  assert.equal(info.exports[0]['export-size'], 1 << 20)
  const written = await qemuIo(socket, 'write -P 7 4096 8192', 'read -P 7 4096 8192', 'write -P 9 100 50', 'flush')
  assert.match(written, /wrote 8192/)
  const expected = Buffer.alloc(1 << 20)
  expected.set(bytes)
  expected.fill(7, 4096, 12288).fill(9, 100, 150)

  const { epoch } = await server.ask('cutDisk', { name: 'a' })
  assert.equal(epoch, 0)
  assert.equal((await server.ask('cutDisk', { name: 'a' })).epoch, 0, 'nothing was written, so it is the same')
  await qemuIo(socket, 'write -P 5 65536 65536')
  const snapshot = testBuildId('snapshot')
  const stored = await server.ask('store', storeRequest(snapshot, { name: 'a', epoch }, build))
  assert.ok(stored.addedBytes > 0)
  assert.ok((await readDisk(server.content, snapshot)).equals(expected))
  assert.deepEqual(
    (await server.ask('store', storeRequest(snapshot, { name: 'a', epoch }, build))).build,
    snapshot,
    'asked again, it is done already',
  )

  await server.restart()
  assert.match(await qemuIo(socket, 'read -P 5 65536 65536', 'read -P 7 4096 8192'), /read 8192/)
  assert.equal((await server.ask('list', {})).disks[0]?.epoch, 1)
  await server.ask('closeDisk', { name: 'a' })
  assert.deepEqual((await server.ask('list', {})).disks, [])
})

test('what was read of a build is known, and not more than that', { skip }, async () => {
  await using server = await openTestServer()
  const build = testBuildId('template')
  await storeBuild(server.content, build, fresh(seededRandom('disk'), 1 << 20), { chunkBytes: diskChunkBytes })
  const { socket } = await server.ask('openDisk', { name: 'a', from: { build } })
  assert.deepEqual((await server.ask('touchedDisk', { name: 'a' })).chunks, [])
  await qemuIo(socket, 'read 600000 512', 'write -P 7 0 65536')
  const { chunks } = await server.ask('touchedDisk', { name: 'a' })
  assert.deepEqual(chunks, [8, 9], 'the piece around it')
  await server.ask('openDisk', { name: 'empty', from: { size: 1 << 20 } })
  assert.deepEqual((await server.ask('touchedDisk', { name: 'empty' })).chunks, [])
})

test('a disk that cannot be served does not keep the others from it', { skip }, async () => {
  await using server = await openTestServer()
  const build = testBuildId('lost')
  await storeBuild(server.content, build, fresh(seededRandom('lost'), 65536), { chunkBytes: diskChunkBytes })
  await server.ask('openDisk', { name: 'lost', from: { build } })
  const { socket } = await server.ask('openDisk', { name: 'kept', from: { size: 1 << 20 } })
  await qemuIo(socket, 'write -P 3 0 4096')
  await rm(join(server.content.directory, 'builds', `${build}.json`))
  await server.restart()
  assert.match(await qemuIo(socket, 'read -P 3 0 4096'), /read 4096/)
  assert.deepEqual(
    (await server.ask('list', {})).disks.map(({ name }) => name),
    ['kept'],
  )
})

test('what is asked wrongly is answered with what is wrong', async () => {
  await using server = await openTestServer()
  const lost = testBuildId('nowhere')
  await assert.rejects(server.ask('openDisk', { name: 'a', from: { build: lost } }), { code: 'not_found' })
  await assert.rejects(server.ask('openDisk', { name: 'A/..', from: { size: 512 } }), { code: 'invalid' })
  await assert.rejects(server.ask('openDisk', { name: 'a', from: { size: 100 } }), { code: 'invalid' })
  await assert.rejects(server.ask('cutDisk', { name: 'a' }), { code: 'not_found' })
  await server.ask('closeDisk', { name: 'a' })
  await assert.rejects(
    server.ask('captureMemory', { capture: 'c', pid: 2 ** 22 + 1, path: '/nowhere', build: lost, size: 4096 }),
    { code: 'not_found', message: /is it still there/ },
  )
})
