import assert from 'node:assert/strict'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { silentLog } from '../../kit/log.ts'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { fileObjects } from '../objects/file.ts'
import type { ObjectStore } from '../objects.ts'
import type { LocalContentStore } from '../open.ts'
import { Uploads } from '../server/uploads.ts'
import { fresh, openTestStore, readDisk, readImage, storeBuild, temporaryDirectory, testBuildId } from '../testing.ts'
import { collect } from './collect.ts'
import { copyBuild } from './copy.ts'
import { repack } from './repack.ts'
import { readBuilds } from './source.ts'
import { verify } from './verify.ts'

const random = seededRandom('repack')
const clock = systemClock
const chunk = 16 * 1024
const [whole, part] = [testBuildId('whole'), testBuildId('part')]
const wholeBytes = fresh(seededRandom('whole'), 200 * chunk)
/** A twentieth of the other one. */
const partBytes = wholeBytes.subarray(95 * chunk, 105 * chunk)

/** Two builds in one pack, of which only the small one has a name; the other one is collected. */
async function storeAndForget(store: LocalContentStore): Promise<void> {
  const parent = await storeBuild(store, whole, wholeBytes)
  await storeBuild(store, part, partBytes, { parent, reference: 'part' })
  await collectAll(store.objects)
}

/** What is of no use goes at once. */
async function collectAll(objects: ObjectStore): Promise<void> {
  for (let round = 0; round < 2; round++) await collect(objects, { clock, graceMs: -60_000 })
}

async function sizeOf(objects: ObjectStore): Promise<number> {
  let sum = 0
  for await (const { size } of objects.list('packs/')) sum += size
  return sum
}

test('a pack of which little is needed is rewritten, the old one waits its time, and what it held can be read', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await storeAndForget(store)
  const before = await sizeOf(store.objects)
  assert.ok(before > wholeBytes.length / 2, 'the pack went though a part of it is needed')
  const manifest = await store.manifest(part)

  const dry = await repack(store.objects, { clock, dryRun: true })
  assert.deepEqual([dry.packs.length, dry.made, dry.builds], [1, [], [part]])
  assert.ok(dry.unusedBytes > 0.8 * before && dry.unusedBytesAfter <= 0.05 * before)
  assert.deepEqual(await store.manifest(part), manifest)

  const { repacked } = await store.collect({ maxUnused: 0.05 })
  assert.deepEqual(repacked?.packs, dry.packs)
  assert.ok((repacked?.madeBytes ?? 0) < 0.1 * before)
  // Nothing of the build is another one but where it lies.
  assert.deepEqual({ ...(await store.manifest(part)), packs: manifest.packs }, manifest)
  assert.ok((await store.collect()).waiting.packs.includes(dry.packs[0] ?? ''))
  assert.ok((await sizeOf(store.objects)) > before, 'the old pack went before its time')
  assert.ok((await readDisk(store, part)).equals(partBytes))

  const reader = await store.open(manifest.disk, { packs: manifest.packs, build: part })
  for (let round = 0; round < 2; round++) await store.collect({ graceMs: -60_000 })
  assert.ok((await sizeOf(store.objects)) < 0.1 * before)
  assert.ok((await readImage(reader)).equals(partBytes), 'who had the old list could not go on')
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
  assert.deepEqual((await store.collect({ maxUnused: 0.05 })).repacked?.packs, [])
})

test('packs stay as they are while little of what is kept is garbage, and those that another build names', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  const parent = await storeBuild(store, whole, wholeBytes)
  await storeBuild(store, part, partBytes, { parent, reference: 'part' })
  assert.deepEqual((await repack(store.objects, { clock, maxUnused: 0 })).packs, [], 'a build that waits names it')
  await store.setReference('whole', whole)
  const kept = await repack(store.objects, { clock, maxUnused: 0 })
  assert.deepEqual([kept.packs, kept.unusedBytes], [[], 0])
  await store.deleteReference('whole')
  await collectAll(store.objects)
  assert.deepEqual((await repack(store.objects, { clock, maxUnused: 1 })).packs, [])
  assert.equal((await repack(store.objects, { clock, maxUnused: 0 })).packs.length, 1)
})

test('a store of which a manifest or a chunk cannot be read is not repacked, and that is said', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await storeAndForget(store)
  const [name = ''] = (await repack(store.objects, { clock, dryRun: true })).packs
  const bytes = await store.objects.get(`packs/${name}`)
  await store.objects.put(`packs/${name}`, Buffer.from(bytes).fill(0xa5, 8, 1_600_000), { size: bytes.length })
  const manifest = await store.objects.get(`builds/${part}.json`)
  const harmed = await repack(store.objects, { clock })
  assert.match(harmed.problems[0] ?? '', /^chunk \w+ is corrupt in pack/)
  assert.deepEqual([harmed.packs, harmed.builds], [[], []])
  assert.ok((await store.objects.get(`builds/${part}.json`)).equals(manifest))
  await store.objects.put(`builds/${part}.json`, Buffer.from('{'), { size: 1 })
  assert.match((await repack(store.objects, { clock })).problems[0] ?? '', /the manifest of build \w+ .* is corrupt/)
})

test('whoever read a bucket before it was repacked reads on when the old packs are gone, and makes builds that are whole', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  const bucket = fileObjects({ directory: away.path, random })
  {
    await using store = await openTestStore(away.path)
    const parent = await storeBuild(store, whole, wholeBytes)
    await storeBuild(store, part, partBytes, { parent, reference: 'part' })
    await collectAll(store.objects)
  }
  const open = () => openTestStore(here.path, { upstream: bucket, cacheBytes: 1 })
  const [made, later] = [testBuildId('made'), testBuildId('later')]
  const changed = Buffer.concat([partBytes.subarray(0, 9 * chunk), fresh(seededRandom('changed'), chunk)])
  {
    await using store = await open()
    const manifest = await store.manifest(part)
    const opened = () => store.open(manifest.disk, { packs: manifest.packs, build: part })
    const reader = await opened()
    assert.ok((await reader.read(0)).equals(partBytes.subarray(0, chunk)))
    const { packs } = await repack(bucket, { clock })
    assert.equal(packs.length, 1)
    assert.ok((await reader.read(9)).equals(partBytes.subarray(9 * chunk)), 'during the grace period')
    // Based on what names the old pack, while that is there and when it is gone.
    await storeBuild(store, made, changed, { parent: manifest, reference: 'made' })
    await collectAll(bucket)
    assert.equal(await bucket.size(`packs/${packs[0]}`), undefined)
    await reader.prefetch([3, 4, 5])
    assert.ok((await readImage(reader)).equals(partBytes))
    assert.ok((await readImage(await opened())).equals(partBytes))
    await storeBuild(store, later, changed, { parent: manifest, reference: 'later' })
  }
  // And the next process, with the old manifest on its disk and nothing of the packs.
  for (const name of await readdir(join(here.path, 'cache/packs'))) await rm(join(here.path, 'cache/packs', name))
  {
    await using store = await open()
    for (const id of [made, later]) assert.ok((await readDisk(store, id)).equals(changed), id)
    assert.ok((await readDisk(store, part)).equals(partBytes))
    await using uploads = new Uploads({
      ...{ directory: join(here.path, 'uploads'), local: store.objects, upstream: bucket },
      ...{ clock, random, log: silentLog },
    })
    await uploads.resume()
    for (const id of [made, later]) uploads.add(id)
    while (uploads.list().length > 0) await new Promise((resolve) => setTimeout(resolve, 20))
  }
  assert.deepEqual((await verify(readBuilds(bucket))).problems, [])
  await using third = await temporaryDirectory()
  await using store = await openTestStore(third.path, { upstream: bucket })
  for (const id of [made, later]) assert.ok((await readDisk(store, id)).equals(changed))
})

test('a build that is copied to a bucket while it is repacked is whole', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  await using store = await openTestStore(away.path)
  await storeAndForget(store)
  await using other = await openTestStore(here.path)
  const second = testBuildId('second')
  await storeBuild(other, second, wholeBytes, { reference: 'second' })
  let repacking: Promise<unknown> | undefined
  const target: ObjectStore = {
    ...store.objects,
    async put(key, body, options) {
      // What the copy relies on is gone from the list of the build that held it.
      if (key.startsWith('builds/')) {
        repacking ??= repack(store.objects, { clock })
        await repacking
      }
      await store.objects.put(key, body, options)
    },
  }
  await copyBuild(readBuilds(other.objects), target, second, { reference: 'second' })
  assert.ok(repacking)
  await collectAll(store.objects)
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
  assert.ok((await readDisk(store, second)).equals(wholeBytes))
})
