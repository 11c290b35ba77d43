import assert from 'node:assert/strict'
import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { type Random, seededRandom } from '../kit/random.ts'
import { systemClock } from '../kit/system-clock.ts'
import type { Fault } from '../model/fault.ts'
import { type Files, realFiles } from './files.ts'
import { fileObjects } from './objects/file.ts'
import { collect } from './operations/collect.ts'
import { copyBuild } from './operations/copy.ts'
import { listBuilds } from './operations/list.ts'
import { repack } from './operations/repack.ts'
import { readBuilds } from './operations/source.ts'
import { verify } from './operations/verify.ts'
import { fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from './testing.ts'

/**
 * Files on a machine that loses its power before the `lastStep`th step: every step after that fails, and what was not
 * made durable is lost, all of it or parts of it as `luck` has it: bytes that were not synced, names whose directory was
 * not.
 */
function powerCut(lastStep: number, luck: Random): { files: Files; steps: () => number; lose: () => Promise<void> } {
  let steps = 0
  const step = () => {
    if (++steps > lastStep) throw new Error('the power was cut')
  }
  const unsynced = new Map<string, number>()
  /** Names that are not durable, with the bytes that they had before. */
  const unnamed = new Map<string, Buffer | undefined>()
  const files: Files = {
    async create(path) {
      step()
      const file = await realFiles.create(path)
      unsynced.set(path, 0)
      let size = 0
      return {
        fd: file.fd,
        async write(pieces, offset) {
          step()
          await file.write(pieces, offset)
          size = Math.max(size, offset + pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
          if (!unsynced.has(path)) unsynced.set(path, 0)
        },
        async sync() {
          step()
          await file.sync()
          unsynced.delete(path)
        },
        close: () => file.close(),
      }
    },
    async rename(from, to) {
      step()
      const synced = unsynced.get(from)
      const replaced = await readFile(to).catch(() => undefined)
      await realFiles.rename(from, to)
      unsynced.delete(from)
      if (synced !== undefined) unsynced.set(to, synced)
      unnamed.set(to, replaced)
    },
    async syncDirectory(path) {
      step()
      await realFiles.syncDirectory(path)
      for (const name of unnamed.keys()) if (join(name, '..') === path) unnamed.delete(name)
    },
    async remove(path) {
      step()
      await realFiles.remove(path)
    },
  }
  return {
    files,
    steps: () => steps,
    async lose() {
      for (const [path, length] of unsynced) if (luck.fraction() < 0.7) await truncate(path, length).catch(() => {})
      for (const [name, replaced] of unnamed)
        if (luck.fraction() < 0.7) await (replaced ? writeFile(name, replaced) : rm(name, { force: true }))
    },
  }
}

const before = fresh(seededRandom('before'), 600_000)
const after = Buffer.concat([before.subarray(0, 300_000), fresh(seededRandom('after'), 300_000)])
const [old, next] = [testBuildId('old'), testBuildId('new')]

/** Publishes over an old build until the cut, and looks at what the next start finds. Gives the steps that were done. */
async function publishUntil(
  lastStep: number,
  seed: string,
  prepared: string,
): Promise<{ steps: number; found: 'old' | 'new' }> {
  await using directory = await temporaryDirectory()
  await cp(prepared, directory.path, { recursive: true })
  const cut = powerCut(lastStep, seededRandom(seed))
  try {
    await using store = await openTestStore(directory.path, { files: cut.files })
    await storeBuild(store, next, after, { parent: await store.manifest(old), reference: 'x' })
  } catch (error) {
    assert.match(String((error as Fault).message), /the power was cut/)
  }
  await cut.lose()

  await using store = await openTestStore(directory.path)
  const build = await store.reference('x')
  assert.ok(build === old || build === next, `the reference leads to ${build}`)
  assert.ok((await readDisk(store, build)).equals(build === old ? before : after))
  assert.ok((await readDisk(store, old)).equals(before))
  const { builds } = await listBuilds(store.objects)
  for (const { id } of builds) assert.ok((await readDisk(store, id)).equals(id === old ? before : after))
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])

  await collectAll(store)
  const left = await listBuilds(store.objects)
  assert.deepEqual(
    left.builds.map(({ id }) => id),
    [build],
  )
  assert.deepEqual(
    (await readdir(join(directory.path, 'packs'))).sort(),
    [...(await store.manifest(build)).packs].sort(),
  )
  assert.deepEqual(await readdir(join(directory.path, 'tmp')), [])
  assert.ok((await readDisk(store, build)).equals(build === old ? before : after))
  return { steps: cut.steps(), found: build === old ? 'old' : 'new' }
}

/** Two collections without any grace: what is unreachable is gone. */
async function collectAll(store: { collect(options: { graceMs: number }): Promise<unknown> }): Promise<void> {
  await store.collect({ graceMs: -60_000 })
  await store.collect({ graceMs: -60_000 })
}

test('wherever a publication is cut off there is the old build or the new one, and collection removes the rest', async () => {
  await using prepared = await temporaryDirectory()
  {
    await using store = await openTestStore(prepared.path)
    await storeBuild(store, old, before, { reference: 'x' })
  }
  const whole = await publishUntil(Number.POSITIVE_INFINITY, 'whole', prepared.path)
  assert.equal(whole.found, 'new')
  const found = new Set<string>()
  for (let step = 0; step <= whole.steps; step++) found.add((await publishUntil(step, `${step}`, prepared.path)).found)
  assert.deepEqual([...found].sort(), ['new', 'old'])
})

test('wherever a copy is cut off, the next one goes on and ends whole', async () => {
  await using away = await temporaryDirectory()
  {
    await using store = await openTestStore(away.path)
    const parent = await storeBuild(store, old, before)
    await storeBuild(store, next, after, { parent })
  }
  const source = fileObjects({ directory: away.path, random: seededRandom('source') })
  for (let step = 0; ; step++) {
    await using here = await temporaryDirectory()
    const cut = powerCut(step, seededRandom(`copy${step}`))
    const random = seededRandom(`target${step}`)
    const broken = fileObjects({ directory: here.path, random, files: cut.files })
    const isWhole = await copyBuild(readBuilds(source), broken, next, { reference: 'x' }).then(
      () => true,
      () => false,
    )
    if (!isWhole) await cut.lose()
    const target = fileObjects({ directory: here.path, random })
    const listed = await listBuilds(target)
    assert.deepEqual(listed.problems, [])
    for (const { id } of listed.builds)
      assert.deepEqual((await verify(readBuilds(target), { builds: [id] })).problems, [])
    await copyBuild(readBuilds(source), target, next, { reference: 'x' })
    assert.deepEqual((await verify(readBuilds(target))).problems, [])
    await using store = await openTestStore(here.path)
    assert.ok((await readDisk(store, next)).equals(after))
    if (isWhole) break
  }
})

test('a collection that is cut off anywhere takes nothing that is needed', async () => {
  for (let deletions = 0; deletions <= 6; deletions++) {
    await using directory = await temporaryDirectory()
    await using store = await openTestStore(directory.path)
    await storeBuild(store, old, before)
    await storeBuild(store, next, after, { reference: 'x' })
    let left = deletions
    const dying = {
      ...store.objects,
      async delete(key: string) {
        if (left-- <= 0) throw new Error('the power was cut')
        await store.objects.delete(key)
      },
    }
    const once = () => collect(dying, { clock: systemClock, graceMs: -60_000 }).catch(() => {})
    await once()
    await once()
    assert.ok((await readDisk(store, next)).equals(after))
    assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
    await collectAll(store)
    assert.deepEqual(
      (await readdir(join(directory.path, 'packs'))).sort(),
      [...(await store.manifest(next)).packs].sort(),
    )
  }
})

test('wherever repacking is cut off every build can be read, and the next time ends it', async () => {
  await using prepared = await temporaryDirectory()
  const small = (n: number) => before.subarray(n * 16_384, (n + 2) * 16_384)
  const builds = [0, 7, 14].map((n) => ({ id: testBuildId(`part${n}`), bytes: small(n) }))
  {
    await using store = await openTestStore(prepared.path)
    const parent = await storeBuild(store, old, before)
    for (const { id, bytes } of builds) await storeBuild(store, id, bytes, { parent, reference: `part/${id}` })
    await collectAll(store)
  }
  for (let step = 0; ; step++) {
    await using directory = await temporaryDirectory()
    await cp(prepared.path, directory.path, { recursive: true })
    const cut = powerCut(step, seededRandom(`repack${step}`))
    const random = seededRandom(`repacked${step}`)
    const dying = fileObjects({ directory: directory.path, random, files: cut.files })
    const isWhole = await repack(dying, { clock: systemClock }).then(
      ({ packs, problems }) => packs.length === 1 && problems.length === 0,
      () => false,
    )
    await cut.lose()
    await using store = await openTestStore(directory.path)
    const assertReadable = async () => {
      for (const { id, bytes } of builds) assert.ok((await readDisk(store, id)).equals(bytes), `step ${step}`)
      assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
    }
    await assertReadable()
    await collectAll(store)
    await assertReadable()
    await store.collect({ graceMs: -60_000, maxUnused: 0.05 })
    await collectAll(store)
    await assertReadable()
    assert.equal((await repack(store.objects, { clock: systemClock, dryRun: true })).packs.length, 0)
    const named = new Set((await Promise.all(builds.map(({ id }) => store.manifest(id)))).flatMap(({ packs }) => packs))
    assert.deepEqual((await readdir(join(directory.path, 'packs'))).sort(), [...named].sort())
    if (isWhole) break
    assert.ok(step < 200)
  }
})
