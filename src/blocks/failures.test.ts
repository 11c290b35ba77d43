import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { open, readdir, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { seededRandom } from '../kit/random.ts'
import { Fault, type FaultCode } from '../model/fault.ts'
import { toHash } from './hash.ts'
import { fileObjects } from './objects/file.ts'
import type { ObjectStore } from './objects.ts'
import { listBuilds } from './operations/list.ts'
import { readBuilds } from './operations/source.ts'
import { verify } from './operations/verify.ts'
import { placeAt } from './pack.ts'
import { fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from './testing.ts'

const id = testBuildId('a')
const content = fresh(seededRandom('a'), 2_000_000)
const random = seededRandom('failures')

test('a corrupt chunk is a fault that names it and its build, and other chunks are still read', async () => {
  await using directory = await temporaryDirectory()
  const chunk = await storedAndHarmed(directory.path)
  await using store = await openTestStore(directory.path)
  const manifest = await store.manifest(id)
  const reader = await store.open(manifest.disk, { packs: manifest.packs, build: id })
  const fault = await rejection('conflict', reader.read(7))
  assert.match(fault.message, new RegExp(`^chunk ${chunk} of build ${id} is corrupt in pack [0-9a-f]{64}$`))
  assert.ok((await reader.read(8)).equals(content.subarray(8 * 16_384, 9 * 16_384)))
  const { problems } = await verify(readBuilds(store.objects))
  assert.deepEqual([...new Set(problems.map((problem) => problem.chunk))], [chunk])
  assert.ok(problems.some(({ build, message }) => build === id && message.includes('is corrupt')))
})

test('a chunk that is corrupt here is read from the object store', async () => {
  await using away = await temporaryDirectory()
  await using directory = await temporaryDirectory()
  await storedAndHarmed(directory.path)
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, content)
  }
  await using store = await openTestStore(directory.path, { upstream: fileObjects({ directory: away.path, random }) })
  assert.ok((await readDisk(store, id)).equals(content))
})

test('a missing pack is a fault that names the chunk and the build', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  const manifest = await storeBuild(store, id, content)
  for (const name of await readdir(join(directory.path, 'packs'))) await rm(join(directory.path, 'packs', name))
  const fault = await rejection('conflict', store.open(manifest.disk, { packs: manifest.packs, build: id }))
  assert.match(fault.message, new RegExp(`^chunk [0-9a-f]{64} of build ${id} is missing`))
  assert.ok((await verify(readBuilds(store.objects))).problems.some(({ message }) => message.includes('is missing')))
})

test('a manifest that was cut or is of another build is a fault that names it', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await storeBuild(store, id, content)
  const other = testBuildId('other')
  const body = await store.objects.get(`builds/${id}.json`)
  await store.objects.put(`builds/${other}.json`, body, { size: body.length })
  assert.match((await rejection('conflict', store.manifest(other))).message, /is corrupt: it calls itself/)
  await truncate(join(directory.path, 'builds', `${id}.json`), 100)
  assert.match((await rejection('conflict', store.manifest(id))).message, new RegExp(`manifest of build ${id} in`))
  assert.equal((await listBuilds(store.objects)).problems.length, 2)
})

test('an object store that cannot be reached is tried again, and then is a fault', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, content)
  }
  let failures = 0
  const upstream = harmed(fileObjects({ directory: away.path, random }), () => {
    if (failures-- > 0) throw new Fault('unavailable', 'the bucket cannot be reached')
  })
  await using store = await openTestStore(here.path, { upstream })
  failures = 3
  const manifest = await store.manifest(id)
  const reader = await store.open(manifest.disk, { packs: manifest.packs })
  failures = 3
  assert.ok((await reader.read(5)).equals(content.subarray(5 * 16_384, 6 * 16_384)))
  failures = 1000
  await rejection('unavailable', reader.read(40))
  failures = 0
  assert.ok((await readDisk(store, id)).equals(content))
})

test('bytes that come corrupt are asked for again, and are never given out', async () => {
  await using away = await temporaryDirectory()
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, content)
  }
  for (const times of [1, 1000]) {
    await using here = await temporaryDirectory()
    let left = 0
    const upstream = harmed(fileObjects({ directory: away.path, random }), (key, bytes) => {
      if (key.startsWith('packs/') && left-- > 0) bytes?.fill(0x55)
    })
    await using store = await openTestStore(here.path, { upstream })
    const manifest = await store.manifest(id)
    const reader = await store.open(manifest.disk, { packs: manifest.packs, build: id })
    left = times
    if (times === 1) assert.ok((await reader.read(3)).equals(content.subarray(3 * 16_384, 4 * 16_384)))
    else
      assert.match((await rejection('conflict', reader.read(3))).message, /^chunk \w+ of build \w+ is corrupt in pack/)
    left = 0
    assert.ok((await readDisk(store, id)).equals(content), 'the harm outlived its cause')
  }
})

test('readers of the same chunk at the same time share one fetch, and one who gives up leaves it to the others', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, content)
  }
  let gets = 0
  const upstream = harmed(fileObjects({ directory: away.path, random }), () => void gets++)
  await using store = await openTestStore(here.path, { upstream })
  const manifest = await store.manifest(id)
  const reader = await store.open(manifest.disk, { packs: manifest.packs })
  gets = 0
  const stop = new AbortController()
  const impatient = reader.read(30, { signal: stop.signal })
  const reads = Array.from({ length: 20 }, () => reader.read(30))
  stop.abort(new Error('enough'))
  await assert.rejects(impatient, /enough/)
  for (const bytes of await Promise.all(reads)) assert.ok(bytes.equals(content.subarray(30 * 16_384, 31 * 16_384)))
  assert.equal(gets, 1)
})

test('a prefetch brings what it names and no more, and reading it then fetches nothing', async () => {
  await using away = await temporaryDirectory()
  await using here = await temporaryDirectory()
  const large = fresh(seededRandom('large'), 32 * 1024 * 1024)
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, large)
  }
  await using store = await openTestStore(here.path, { upstream: fileObjects({ directory: away.path, random }) })
  const manifest = await store.manifest(id)
  const reader = await store.open(manifest.disk, { packs: manifest.packs })
  const numbers = Array.from({ length: 20 }, (_, n) => (n * 97) % 2048)
  await reader.prefetch(numbers)
  const fetched = store.fetchedBytes
  assert.ok(fetched < 1_000_000, `${fetched} bytes were fetched`)
  for (const n of numbers) assert.ok((await reader.read(n)).equals(large.subarray(n * 16_384, (n + 1) * 16_384)))
  assert.equal(store.fetchedBytes, fetched)
})

test('writers at the same time each publish what they were given', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  const contents = Array.from({ length: 6 }, (_, n) =>
    Buffer.concat([content.subarray(0, 1_000_000), fresh(seededRandom(`w${n}`), 500_000)]),
  )
  await Promise.all(contents.map((bytes, n) => storeBuild(store, testBuildId(`w${n}`), bytes, { reference: `w${n}` })))
  for (const [n, bytes] of contents.entries()) assert.ok((await readDisk(store, testBuildId(`w${n}`))).equals(bytes))
  assert.deepEqual((await verify(readBuilds(store.objects))).problems, [])
})

test('a full disk is said to be full, nothing half-made is listed, and with room again it works', async (t) => {
  await using directory = await temporaryDirectory()
  if (process.getuid?.() !== 0) return t.skip('needs root')
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', directory.path], { stdio: 'pipe' })
  } catch {
    return t.skip('needs to mount')
  }
  try {
    await using store = await openTestStore(directory.path)
    await storeBuild(store, id, content, { reference: 'small' })
    const large = fresh(seededRandom('large'), 20_000_000)
    const fault = await rejection('exhausted', storeBuild(store, testBuildId('b'), large, { reference: 'large' }))
    assert.match(fault.message, /the disk is full/)
    assert.equal(await store.reference('large'), undefined)
    assert.deepEqual(
      (await listBuilds(store.objects)).builds.map((build) => build.id),
      [id],
    )
    assert.deepEqual(await readdir(join(directory.path, 'tmp')), [])
    assert.ok((await readDisk(store, id)).equals(content))
    await storeBuild(store, testBuildId('c'), fresh(seededRandom('c'), 1_000_000), { reference: 'c' })
  } finally {
    execFileSync('umount', [directory.path])
  }
})

test('a full disk does not keep anybody from reading what is in the object store', async (t) => {
  await using away = await temporaryDirectory()
  await using directory = await temporaryDirectory()
  if (process.getuid?.() !== 0) return t.skip('needs root')
  const large = fresh(seededRandom('large'), 20_000_000)
  {
    await using store = await openTestStore(away.path)
    await storeBuild(store, id, large)
  }
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', directory.path], { stdio: 'pipe' })
  } catch {
    return t.skip('needs to mount')
  }
  try {
    await using store = await openTestStore(directory.path, { upstream: fileObjects({ directory: away.path, random }) })
    assert.ok((await readDisk(store, id)).equals(large))
  } finally {
    execFileSync('umount', [directory.path])
  }
})

test('a second process is refused the directory until the first one died, however it died', async () => {
  await using directory = await temporaryDirectory()
  const program = `
    const { openTestStore } = await import(${JSON.stringify(new URL('./testing.ts', import.meta.url).href)})
    await openTestStore(${JSON.stringify(directory.path)})
    console.log('open')
    setInterval(() => {}, 1000)`
  const other = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', program],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  try {
    await once(other.stdout, 'data')
    const fault = await rejection('conflict', openTestStore(directory.path))
    assert.match(fault.message, /is in use by another process/)
  } finally {
    other.kill('SIGKILL')
    await once(other, 'exit')
  }
  await using store = await openTestStore(directory.path)
  await storeBuild(store, id, content)
})

/** Stores the build, and turns one bit of chunk 7 where it lies. */
async function storedAndHarmed(directory: string): Promise<string> {
  await using store = await openTestStore(directory)
  const manifest = await storeBuild(store, id, content)
  const reader = await store.open(manifest.disk, { packs: manifest.packs })
  const source = readBuilds(store.objects)
  await source.readPacks(manifest.packs)
  const found = source.find(reader.id(7))
  assert.ok(found)
  assert.ok(placeAt(found.pack.entries, 0).offset > 0)
  await using file = await open(join(directory, 'packs', found.pack.name), 'r+')
  const at = found.place.offset + Math.floor(found.place.storedBytes / 2)
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at)
  await file.write(Buffer.from([(buffer[0] as number) ^ 1]), 0, 1, at)
  return toHash(reader.id(7))
}

/** A store of which every answer to `get` is first shown to `harm`. */
function harmed(objects: ObjectStore, harm: (key: string, bytes?: Buffer) => void): ObjectStore {
  return {
    ...objects,
    async get(key, options) {
      const bytes = await objects.get(key, options)
      harm(key, bytes)
      return bytes
    },
    async tail(key, length) {
      const found = await objects.tail(key, length)
      harm(key, found?.bytes)
      return found
    },
  }
}

async function rejection(code: FaultCode, work: Promise<unknown>): Promise<Fault> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof Fault, `no Fault but ${error}`)
  assert.equal(error.code, code, error.message)
  return error
}
