import assert from 'node:assert/strict'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { fileObjects } from '../objects/file.ts'
import { layered } from '../objects/layered.ts'
import type { LocalContentStore } from '../open.ts'
import { diskOnly, fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from '../testing.ts'
import { benchBuild } from './bench.ts'
import { collect } from './collect.ts'
import { copyBuild } from './copy.ts'
import { diff, gridColumns } from './diff.ts'
import { exportDisk } from './export-disk.ts'
import { inspect, readRange } from './inspect.ts'
import { listBuilds } from './list.ts'
import { readBuilds } from './source.ts'
import { verify } from './verify.ts'

const chunk = 16 * 1024
const [first, second] = [testBuildId('first'), testBuildId('second')]

/** 512 chunks: 0–99 data, 100–399 zeros, 400–511 data. */
function firstContent(): Buffer {
  const content = fresh(seededRandom('first'), 512 * chunk)
  content.fill(0, 100 * chunk, 400 * chunk)
  return content
}

/** Ten chunks changed, five added where zeros were, three cleared. */
function secondContent(): Buffer {
  const content = firstContent()
  content.set(fresh(seededRandom('changed'), 10 * chunk), 0)
  content.set(fresh(seededRandom('added'), 5 * chunk), 200 * chunk)
  content.fill(0, 500 * chunk, 503 * chunk)
  return content
}

async function twoBuilds(directory: string): Promise<LocalContentStore> {
  const store = await openTestStore(directory)
  const parent = await storeBuild(store, first, firstContent(), { reference: 'template/first' })
  await storeBuild(store, second, secondContent(), { parent, reference: 'template/second' })
  return store
}

test('builds are listed with their sizes and names', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const { builds, problems } = await listBuilds(store.objects)
  assert.deepEqual(problems, [])
  const found = builds.find(({ id }) => id === second)
  assert.equal(found?.parent, first)
  assert.equal(found?.size, 512 * chunk)
  assert.deepEqual(found?.references, ['template/second'])
  assert.ok((found?.addedBytes ?? 0) < 15 * chunk + 2 * 32 * 1024)
})

test('inspection shows runs, what is shared with the parent, and how well it is compressed', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const { images } = await inspect(readBuilds(store.objects), second)
  const disk = images[0]
  assert.ok(disk)
  assert.deepEqual(
    disk.runs.map(({ kind, first: from, count }) => [kind, from, count]),
    [
      ['data', 0, 100],
      ['zero', 100, 100],
      ['data', 200, 5],
      ['zero', 205, 195],
      ['data', 400, 100],
      ['zero', 500, 3],
      ['data', 503, 9],
    ],
  )
  assert.equal(disk.zeroChunks, 298)
  assert.equal(disk.distinctChunks, 214)
  assert.deepEqual(disk.sharedWithParent, { chunks: 199, bytes: 199 * chunk })
  assert.ok(disk.ratio > 1.8 && disk.ratio < 2.1, `${disk.ratio}`)
  assert.equal(disk.dataBytes, 214 * chunk)
  assert.equal(
    disk.packs.reduce((sum, { chunks }) => sum + chunks, 0),
    214,
  )
})

test('any range of an image can be looked at', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const source = readBuilds(store.objects)
  const content = secondContent()
  for (const [offset, length] of [
    [0, 10],
    [99 * chunk - 5, 2 * chunk],
    [512 * chunk - 7, 1000],
    [512 * chunk, 5],
  ] as const) {
    const bytes = await readRange(source, second, { image: 'disk', offset, length })
    assert.ok(bytes.equals(content.subarray(offset, offset + length)), `${offset}`)
  }
  await assert.rejects(readRange(source, second, { image: 'memory', offset: 0, length: 1 }), /has no memory/)
})

test('a diff counts what changed and draws it', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const source = readBuilds(store.objects)
  const [disk] = await diff({ source, id: first }, { source, id: second })
  assert.deepEqual(disk?.chunks, { same: 199, changed: 10, added: 5, cleared: 3, zero: 295 })
  assert.equal(disk?.bytes.changed, 10 * chunk)
  assert.equal(disk?.grid.length, 4)
  const drawn = disk?.grid.join('') ?? ''
  assert.equal(drawn.length, 4 * gridColumns)
  assert.equal(drawn.slice(0, 12), '##########==')
  assert.equal(drawn.slice(198, 207), '..+++++..')
  assert.equal(drawn.slice(498, 505), '==---==')
})

test('a copy sends what is missing, and a second one nothing', async () => {
  await using from = await temporaryDirectory()
  await using to = await temporaryDirectory()
  await using store = await twoBuilds(from.path)
  const target = fileObjects({ directory: to.path, random: seededRandom('to') })
  const source = readBuilds(store.objects)
  const whole = await copyBuild(source, target, first, { reference: 'copied' })
  assert.equal(whole.presentChunks, 0)
  const part = await copyBuild(source, target, second)
  assert.ok(part.copiedBytes < 15 * chunk + 2 * 32 * 1024, `${part.copiedBytes} bytes were copied`)
  const nothing = await copyBuild(source, target, second)
  assert.deepEqual(nothing, { ...nothing, presentChunks: nothing.chunks, copiedBytes: 0 })
  assert.deepEqual((await verify(readBuilds(target))).problems, [])
  assert.deepEqual((await listBuilds(target)).builds.find(({ id }) => id === first)?.references, ['copied'])
  await using copied = await openTestStore(to.path)
  assert.ok((await readDisk(copied, second)).equals(secondContent()))
})

test('a build of which little is new is copied without the packs of its parents', async () => {
  await using from = await temporaryDirectory()
  await using to = await temporaryDirectory()
  await using store = await openTestStore(from.path)
  const large = fresh(seededRandom('large'), 20 * 1024 * 1024)
  const parent = await storeBuild(store, first, large)
  const small = Buffer.concat([fresh(seededRandom('new'), 10 * chunk), large.subarray(0, 20 * chunk)])
  await storeBuild(store, second, small, { parent })
  const target = fileObjects({ directory: to.path, random: seededRandom('to') })
  const report = await copyBuild(readBuilds(store.objects), target, second)
  assert.equal(report.madePacks, 1)
  assert.ok(report.copiedBytes < 600_000, `${report.copiedBytes} bytes were copied`)
  await using copied = await openTestStore(to.path)
  assert.ok((await readDisk(copied, second)).equals(small))
})

test('a copy of something corrupt is refused, and nothing of it is listed', async () => {
  await using from = await temporaryDirectory()
  await using to = await temporaryDirectory()
  await using store = await twoBuilds(from.path)
  const harming = {
    ...store.objects,
    async get(key: string, options?: { offset?: number; length?: number }) {
      const bytes = await store.objects.get(key, options)
      if (key.startsWith('packs/') && bytes.length > 1_000_000 && !options) bytes.fill(0, 500_000, 500_100)
      return bytes
    },
  }
  const target = fileObjects({ directory: to.path, random: seededRandom('to') })
  await assert.rejects(
    copyBuild(readBuilds(harming), target, first),
    (error) => error instanceof Fault && /pack \w+ is corrupt: chunk \w+ is not what its hash says/.test(error.message),
  )
  assert.deepEqual((await listBuilds(target)).builds, [])
})

test('an exported disk is the disk, with holes where it is zero', async () => {
  await using directory = await temporaryDirectory()
  await using out = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const path = join(out.path, 'disk.raw')
  const report = await exportDisk(readBuilds(store.objects), second, path)
  assert.ok((await readFile(path)).equals(secondContent()))
  assert.equal(report.writtenBytes, 214 * chunk)
  assert.ok((await stat(path)).blocks * 512 < 230 * chunk)
  await assert.rejects(exportDisk(store, second, '/nonexistent/disk.raw'), /cannot export build/)
  await assert.rejects(
    exportDisk(store, second, join(out.path, 'other.raw'), { signal: AbortSignal.abort(new Error('enough')) }),
    /enough/,
  )
  assert.deepEqual(await readdir(out.path), ['disk.raw'])
})

test('a collection removes what no name leads to, after the grace and not before', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  let now = Date.now()
  const clock = { ...systemClock, now: () => now }
  const hour = 3_600_000
  const run = (dryRun = false) => collect(store.objects, { clock, graceMs: 24 * hour, dryRun })
  const all = (await readdir(join(directory.path, 'packs'))).length

  const none = await run()
  assert.deepEqual([none.waiting.packs, none.removed.packs, none.kept.builds], [[], [], 2])
  await store.deleteReference('template/second')
  const condemned = await run()
  assert.deepEqual([condemned.waiting.builds, condemned.removed.builds], [[second], []])
  assert.ok(condemned.waiting.bytes > 0)
  now += 23 * hour
  assert.deepEqual((await run()).removed.builds, [])
  now += 2 * hour
  const dry = await run(true)
  assert.deepEqual(dry.removed.builds, [second])
  assert.ok((await readDisk(store, second)).equals(secondContent()), 'a dry run removed something')
  const real = await run()
  assert.deepEqual(real.removed, dry.removed)
  await assert.rejects(store.manifest(second), /there is no build/)
  assert.ok((await readdir(join(directory.path, 'packs'))).length < all)
  assert.ok((await readDisk(store, first)).equals(firstContent()))
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
})

test('a layer that no build has used for long loses its name, and goes after the grace', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  await store.setReference('layer/one', second)
  await store.deleteReference('template/second')
  let now = Date.now()
  const clock = { ...systemClock, now: () => now }
  const day = 24 * 3_600_000
  const run = (options: { layerAgeMs?: number; dryRun?: boolean } = {}) =>
    collect(store.objects, { clock, graceMs: day, ...options })
  now += 29 * day
  assert.deepEqual((await run()).layers, { kept: 1, removed: [] })
  now += 2 * day
  const dry = await run({ dryRun: true })
  assert.deepEqual([dry.layers.removed, dry.waiting.builds], [['layer/one'], [second]])
  assert.equal(await store.reference('layer/one'), second)
  assert.deepEqual((await run({ layerAgeMs: 60 * day })).layers, { kept: 1, removed: [] })
  assert.deepEqual((await run()).layers, { kept: 0, removed: ['layer/one'] })
  assert.equal(await store.reference('layer/one'), undefined)
  now += 2 * day
  assert.deepEqual((await run()).removed.builds, [second])
  assert.equal(await store.reference('template/first'), first)
})

test('what got a name again in time is kept, and a new build does not rely on what is about to go', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  let now = Date.now()
  const clock = { ...systemClock, now: () => now }
  const run = () => collect(store.objects, { clock, graceMs: 1000 })
  await store.deleteReference('template/second')
  await store.deleteReference('template/first')
  await run()
  await store.setReference('again', first)
  // The same bytes as a build that is condemned: they are stored again.
  const third = testBuildId('third')
  await storeBuild(store, third, secondContent(), { reference: 'third' })
  now += 10_000
  const report = await run()
  assert.deepEqual(report.removed.builds, [second])
  assert.ok((await readDisk(store, first)).equals(firstContent()))
  assert.ok((await readDisk(store, third)).equals(secondContent()))
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
})

test('a new build does not rely on what another process has collected, nor miss what it has copied here', async () => {
  await using directory = await temporaryDirectory()
  await using away = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await storeBuild(store, first, firstContent())
  const others = fileObjects({ directory: directory.path, random: seededRandom('others') })
  for (let round = 0; round < 2; round++) await collect(others, { clock: systemClock, graceMs: -60_000 })
  assert.deepEqual(await readdir(join(directory.path, 'packs')), [])
  await storeBuild(store, second, firstContent(), { reference: 'second' })
  assert.ok((await readDisk(store, second)).equals(firstContent()))
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])

  const third = testBuildId('third')
  {
    await using other = await openTestStore(away.path)
    await storeBuild(other, third, secondContent())
    await copyBuild(readBuilds(other.objects), others, third, { reference: 'third' })
  }
  assert.equal(await store.reference('third'), third)
  assert.ok((await readDisk(store, third)).equals(secondContent()))
})

test('a collection that cannot read a manifest removes no packs', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  await store.deleteReference('template/first')
  await store.objects.put(`builds/${second}.json`, Buffer.from('{'), { size: 1 })
  const once = () => collect(store.objects, { clock: systemClock, graceMs: -60_000 })
  await once()
  const report = await once()
  assert.equal(report.problems.length, 1)
  assert.deepEqual(report.removed.packs, [])
})

test('the bench gives figures for reads in order, anywhere, and by several at once', async () => {
  await using directory = await temporaryDirectory()
  await using store = await twoBuilds(directory.path)
  const options = { reads: 50, clock: systemClock, random: seededRandom('bench') }
  const figures = await benchBuild(readBuilds(store.objects), second, options)
  assert.deepEqual(
    figures.map(({ pattern, reads, bytes }) => [pattern, reads, bytes]),
    [
      ['sequential', 50, 50 * chunk],
      ['random', 50, 50 * chunk],
      ['parallel', 50, 50 * chunk],
    ],
  )
  for (const { p50, p90, p99 } of figures) assert.ok(p50 <= p90 && p90 <= p99)
})

test('a node keeps to its budget: the coldest go, never what is pinned or the only copy', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  const upstream = fileObjects({ directory: away.path, random: seededRandom('up') })
  const contents = new Map<BuildId, Buffer>()
  await using store = await openTestStore(here.path, { upstream, cacheBytes: 0 })
  for (const name of ['cold', 'pinned', 'warm', 'only-here']) {
    const id = testBuildId(name)
    contents.set(id, fresh(seededRandom(name), 2_000_000))
    await storeBuild(store, id, contents.get(id) as Buffer, { reference: name })
    if (name !== 'only-here') await copyBuild(readBuilds(store.objects), upstream, id, { reference: name })
  }
  const [cold, pinned, warm, only] = [...contents.keys()] as [BuildId, BuildId, BuildId, BuildId]
  await readDisk(store, warm)
  const pin = store.pin(await store.manifest(pinned))
  const { bytes, pinnedBytes } = await store.usage()
  assert.ok(bytes > 4_000_000 && pinnedBytes > 1_000_000)
  assert.deepEqual((await store.trim({ highBytes: bytes, lowBytes: 0 })).removed, [])

  const some = await store.trim({ highBytes: bytes - 1, lowBytes: bytes - 500_000 })
  const coldPacks = (await store.manifest(cold)).packs
  assert.ok(some.removed.length > 0 && some.removed.every((name) => coldPacks.includes(name)))
  await store.trim({ highBytes: 0, lowBytes: 0 })
  const left = await readdir(join(here.path, 'packs'))
  const kept = [...(await store.manifest(pinned)).packs, ...(await store.manifest(only)).packs]
  assert.deepEqual(left.sort(), kept.sort())

  // All of it is still there for readers, through the object store, and for tools that look at both.
  for (const [id, content] of contents) assert.ok((await readDisk(store, id)).equals(content))
  assert.deepEqual((await verify(readBuilds(layered(store.objects, upstream)))).problems, [])
  assert.ok((await store.usage()).fetchedBytes > 1_500_000)
  pin[Symbol.dispose]()
  await store.trim({ highBytes: 0, lowBytes: 0 })
  assert.deepEqual((await readdir(join(here.path, 'packs'))).sort(), [...(await store.manifest(only)).packs].sort())
  assert.equal((await store.usage()).fetchedBytes, 0)
})

test('while a build is made from another, nothing it relies on is evicted', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  const upstream = fileObjects({ directory: away.path, random: seededRandom('up') })
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, first, firstContent(), { reference: 'first' })
  }
  await using store = await openTestStore(here.path, { upstream })
  const parent = await store.manifest(first)
  await using writer = await store.write({ basedOn: parent })
  const base = await store.open(parent.disk, { packs: parent.packs })
  const content = secondContent()
  const ids = await Promise.all(
    Array.from({ length: 512 }, (_, n) => writer.add(content.subarray(n * chunk, (n + 1) * chunk))),
  )
  await store.trim({ highBytes: 0, lowBytes: 0 })
  const disk = await writer.image(parent.disk, (n) => ids[n] as Uint8Array, base)
  const manifest = await writer.publish(diskOnly(second, disk, parent), { basedOn: parent })
  assert.ok(manifest.addedBytes < 15 * chunk + 2 * 32 * 1024, `${manifest.addedBytes} bytes were added`)
  assert.ok((await readDisk(store, second)).equals(content))
})
