import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../kit/random.ts'
import type { Manifest } from '../manifest.ts'
import { fileObjects } from '../objects/file.ts'
import type { ObjectStore } from '../objects.ts'
import type { LocalContentStore } from '../open.ts'
import { diskOnly, fresh, openTestStore, readImage, temporaryDirectory, testBuildId } from '../testing.ts'
import { copyBuild } from './copy.ts'
import { readBuilds } from './source.ts'
import { verify } from './verify.ts'

const chunkBytes = 16 * 1024
const id = testBuildId('tried')
const memory = fresh(seededRandom('memory'), 400 * chunkBytes)
const disk = fresh(seededRandom('disk'), 100 * chunkBytes)
/** Far apart, and not in their order. */
const prefetch = [390, 7, 8, 200, 9, 100]
const prefetchDisk = [99, 3]

test('what a clone needs first lies together in a copy, and nothing else is asked for until it is there', async () => {
  await using here = await temporaryDirectory()
  await using bucket = await temporaryDirectory()
  await using elsewhere = await temporaryDirectory()
  const objects = fileObjects({ directory: bucket.path, random: seededRandom('bucket') })
  {
    await using store = await openTestStore(here.path)
    await storeTried(store)
    await copyBuild(readBuilds(store.objects), objects, id, { reference: 'build/tried' })
    assert.deepEqual((await verify(readBuilds(objects))).problems, [])
  }
  const asked: string[] = []
  await using store = await openTestStore(elsewhere.path, { upstream: noting(objects, asked) })
  const { packs, snapshot, disk: image } = await store.manifest(id)
  assert.equal(packs.length, 2)
  const opened = await store.open(snapshot?.memory ?? image, { packs })
  await opened.prefetch(prefetch)
  const ofDisk = await store.open(image, { packs })
  await ofDisk.prefetch(prefetchDisk)
  for (const number of prefetch)
    assert.ok((await opened.read(number)).equals(memory.subarray(number * chunkBytes, (number + 1) * chunkBytes)))
  assert.deepEqual(asked, [`builds/${id}.json`, `packs/${packs[0]}`])
  assert.ok((await readImage(opened)).equals(memory))
  assert.ok((await readImage(ofDisk)).equals(disk))
})

test('a second copy of it sends nothing and keeps the order', async () => {
  await using here = await temporaryDirectory()
  await using bucket = await temporaryDirectory()
  const objects = fileObjects({ directory: bucket.path, random: seededRandom('bucket') })
  await using store = await openTestStore(here.path)
  await storeTried(store)
  const from = readBuilds(store.objects)
  await copyBuild(from, objects, id)
  const { packs } = await readBuilds(objects).manifest(id)
  const report = await copyBuild(from, objects, id)
  assert.equal(report.copiedBytes, 0)
  assert.deepEqual((await readBuilds(objects).manifest(id)).packs, packs)
})

async function storeTried(store: LocalContentStore): Promise<Manifest> {
  await using writer = await store.write()
  const storeImage = async (bytes: Buffer) => {
    const count = bytes.length / chunkBytes
    const ids = await Promise.all(
      Array.from({ length: count }, (_, n) => writer.add(bytes.subarray(n * chunkBytes, (n + 1) * chunkBytes))),
    )
    return writer.image({ size: bytes.length, chunkBytes }, (n) => ids[n] as Uint8Array)
  }
  const saved = {
    memory: await storeImage(memory),
    devices: await writer.blob(fresh(seededRandom('devices'), 20_000)),
    ...{ compat: 'test', guestAgent: '1', channelToken: 'token', prefetch, prefetchDisk },
  }
  return writer.publish({ ...diskOnly(id, await storeImage(disk)), snapshot: saved })
}

/** The same objects, with a list of what was read of them. */
function noting(objects: ObjectStore, asked: string[]): ObjectStore {
  return {
    ...objects,
    get: (key, options) => {
      asked.push(key)
      return objects.get(key, options)
    },
    tail: (key, length) => {
      asked.push(key)
      return objects.tail(key, length)
    },
  }
}
