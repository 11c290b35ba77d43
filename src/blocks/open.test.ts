import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../kit/random.ts'
import { Fault } from '../model/fault.ts'
import { fileObjects } from './objects/file.ts'
import { fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from './testing.ts'

test('a build that was stored is read back, also after the store was closed and opened again', async () => {
  await using directory = await temporaryDirectory()
  const content = fresh(seededRandom('a'), 5_000_000)
  content.fill(0, 1_000_000, 3_000_000)
  const id = testBuildId('a')
  {
    await using store = await openTestStore(directory.path)
    await storeBuild(store, id, content, { reference: 'template/a' })
    assert.ok((await readDisk(store, id)).equals(content))
  }
  await using store = await openTestStore(directory.path)
  assert.equal(await store.reference('template/a'), id)
  assert.ok((await readDisk(store, id)).equals(content))
})

test('a second build stores only the chunks that differ', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  const content = fresh(seededRandom('a'), 40 * 1024 * 1024)
  const first = await storeBuild(store, testBuildId('a'), content)
  content.set(seededRandom('b').bytes(100), 20_000_000)
  const second = await storeBuild(store, testBuildId('b'), content, { parent: first })
  assert.ok(second.addedBytes < 60_000, `${second.addedBytes} bytes were added`)
  assert.ok((await readDisk(store, second.id)).equals(content))
})

test('a writer that is disposed before it published leaves nothing behind', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  {
    await using writer = await store.write()
    await writer.add(seededRandom('a').bytes(16_384))
  }
  assert.deepEqual(await readdir(join(directory.path, 'packs')), [])
  assert.deepEqual(await readdir(join(directory.path, 'tmp')), [])
})

test('a directory in use is refused to a second store', async () => {
  await using directory = await temporaryDirectory()
  await using _store = await openTestStore(directory.path)
  await assert.rejects(openTestStore(directory.path), (error: Fault) => error.code === 'conflict')
})

test('a build of the object store is read through, and only what is asked for is fetched', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  const content = fresh(seededRandom('a'), 64 * 1024 * 1024)
  const id = testBuildId('a')
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, content)
  }
  const upstream = fileObjects({ directory: away.path, random: seededRandom('u') })
  {
    await using store = await openTestStore(here.path, { upstream })
    const manifest = await store.manifest(id)
    const reader = await store.open(manifest.disk, { packs: manifest.packs, build: id })
    assert.ok((await reader.read(1234)).equals(content.subarray(1234 * 16_384, 1235 * 16_384)))
    assert.ok(store.fetchedBytes < 3_000_000, `${store.fetchedBytes} bytes were fetched`)
    assert.ok((await readDisk(store, id)).equals(content))
  }
  await using store = await openTestStore(here.path, { upstream })
  assert.ok((await readDisk(store, id)).equals(content))
  assert.equal(store.fetchedBytes, 0)
})

test('a build that is nowhere is a sentence', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await assert.rejects(store.manifest(testBuildId('x')), (error) => {
    assert.ok(error instanceof Fault)
    assert.equal(error.code, 'not_found')
    assert.match(error.message, /^there is no build \w{16} in \//)
    return true
  })
})
