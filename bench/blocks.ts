import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hashOf } from '../src/blocks/hash.ts'
import { fileObjects } from '../src/blocks/objects/file.ts'
import { openObjects } from '../src/blocks/objects/open.ts'
import type { ObjectStore } from '../src/blocks/objects.ts'
import { type LocalContentStore, openContentStore } from '../src/blocks/open.ts'
import { benchBuild } from '../src/blocks/operations/bench.ts'
import { copyBuild } from '../src/blocks/operations/copy.ts'
import { readBuilds } from '../src/blocks/operations/source.ts'
import { entryBytes, writeEntry } from '../src/blocks/pack.ts'
import { makeChunkIndex } from '../src/blocks/store/chunk-index.ts'
import { diskOnly, fresh, storeBuild, testBuildId } from '../src/blocks/testing.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import { s3Credentials, startS3 } from '../test/fixtures/s3.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * The content store on this machine: `node bench/blocks.ts [directory]`. Chunks are half random, half text; everything
 * that is said to be stored is synced.
 */
const chunkBytes = 16 * 1024
const parent = process.argv[2] ?? tmpdir()
const figures: Figure[] = []
const add = (what: string, reached: number, unit: string, asked?: number, better: 'less' | 'more' = 'less') =>
  figures.push({ what, reached, unit, better, ...(asked === undefined ? {} : { asked }) })

await inDirectories(async (here, there, cold) => {
  const store = await open(here)
  const id = testBuildId('last')
  await measureStoring(store)
  await measureSecondPause(store)
  await storeBuild(store, id, fresh(systemRandom, 128 * 1024 * 1024), { reference: 'last' })
  await store[Symbol.asyncDispose]()

  await measureReading(here, 'from packs')
  const objects = fileObjects({ directory: here, random: systemRandom })
  const began = performance.now()
  await copyBuild(readBuilds(objects), fileObjects({ directory: there, random: systemRandom }), id)
  add('copy of 128 MiB to another directory, verified', performance.now() - began, 'ms')
  await measureReading(cold, 'through an object store', fileObjects({ directory: there, random: systemRandom }))
})
await measureBucket()
await measureIndex()
report('blocks', figures)

async function measureStoring(store: LocalContentStore): Promise<void> {
  const times: number[] = []
  const cpu: number[] = []
  for (let round = 0; round < 8; round++) {
    const content = fresh(systemRandom, 100 * 1024 * 1024)
    const [began, used] = [performance.now(), process.cpuUsage()]
    await storeBuild(store, testBuildId(`store${round}`), content, { chunkBytes, reference: `store${round}` })
    times.push(performance.now() - began)
    const { user, system } = process.cpuUsage(used)
    cpu.push((user + system) / 1000)
  }
  add('100 MiB of fresh chunks stored and published, p50', quantile(sorted(times), 0.5), 'ms', 350)
  add('the same, best of 8', Math.min(...times), 'ms')
  add('the same, CPU of all threads, p50', quantile(sorted(cpu), 0.5), 'ms')
}

async function measureSecondPause(store: LocalContentStore): Promise<void> {
  const content = fresh(systemRandom, 256 * 1024 * 1024)
  const first = await storeBuild(store, testBuildId('pause1'), content)
  const base = await store.open(first.disk, { packs: first.packs })
  const dirty = Array.from({ length: 640 }, (_, n) => n * 25)
  const began = performance.now()
  await using writer = await store.write({ basedOn: first })
  const changed = new Map<number, Uint8Array>()
  await Promise.all(
    dirty.map(async (number) => {
      changed.set(number, await writer.add(fresh(systemRandom, chunkBytes)))
    }),
  )
  const disk = await writer.image(first.disk, (number) => changed.get(number) ?? base.id(number), base)
  const second = await writer.publish(diskOnly(testBuildId('pause2'), disk, first), { basedOn: first })
  add('10 MiB changed of 256 MiB, published', performance.now() - began, 'ms')
  add('the same, bytes added', second.addedBytes / 2 ** 20, 'MiB', 14)
}

async function measureReading(directory: string, how: string, upstream?: ObjectStore): Promise<void> {
  await using store = await open(directory, upstream)
  const options = { clock: systemClock, random: systemRandom, reads: 1000 }
  for (const { pattern, bytes, ms, p50, p99 } of await benchBuild(store, testBuildId('last'), options)) {
    add(`${pattern} reads ${how}`, bytes / 2 ** 20 / (ms / 1000), 'MiB/s', undefined, 'more')
    add(`${pattern} reads ${how}, p50`, p50, 'ms')
    add(`${pattern} reads ${how}, p99`, p99, 'ms')
  }
}

/** 137 chunks that are scattered over a memory of 512 MiB, as a fresh clone touches them before it answers. */
async function measureBucket(): Promise<void> {
  Object.assign(process.env, s3Credentials)
  await using s3 = await startS3()
  const objects = await openObjects(`s3://${s3.bucket}/bench?endpoint=${s3.endpoint}`, { random: systemRandom })
  const id = testBuildId('bucket')
  const size = 512 * 1024 * 1024
  await inDirectories(async (here, cold, colder) => {
    {
      await using store = await open(here)
      await storeBuild(store, id, fresh(systemRandom, size), { chunkBytes })
      await copyBuild(readBuilds(store.objects), objects, id)
    }
    const numbers = Array.from(
      { length: 137 },
      (_, n) => (n * 239 + Math.floor(systemRandom.fraction() * 200)) % 32_768,
    )
    for (const [directory, isListed] of [
      [cold, true],
      [colder, false],
    ] as const) {
      await using store = await open(directory, objects)
      const began = performance.now()
      const manifest = await store.manifest(id)
      const reader = await store.open(manifest.disk, { packs: manifest.packs })
      if (isListed) add('512 MiB in a bucket: its maps read', performance.now() - began, 'ms')
      if (isListed) await reader.prefetch(numbers)
      for (const number of numbers) await reader.read(number)
      const how = isListed ? 'with a prefetch list' : 'as they are touched'
      add(`137 scattered chunks of it read, ${how}`, performance.now() - began, 'ms', isListed ? 600 : undefined)
      add('the same, share of its stored bytes', (store.fetchedBytes / (size / 2)) * 100, '%', isListed ? 5 : undefined)
    }
  })
}

async function measureIndex(): Promise<void> {
  const packs = Array.from({ length: 128 }, (_, pack) => {
    const entries = Buffer.alloc(8192 * entryBytes)
    for (let n = 0; n < 8192; n++)
      writeEntry(entries, n * entryBytes, hashOf(Buffer.from(`${pack}/${n}`)), {
        offset: 8 + n * 8000,
        storedBytes: 8000,
        bytes: chunkBytes,
        isCompressed: true,
      })
    return entries
  })
  const before = process.memoryUsage()
  const index = makeChunkIndex()
  const began = performance.now()
  for (const [pack, entries] of packs.entries()) index.add(pack, entries)
  add('index of 1,048,576 chunks, built', performance.now() - began, 'ms')
  const after = process.memoryUsage()
  const table = after.arrayBuffers + after.heapUsed - before.arrayBuffers - before.heapUsed
  add('the same, memory with the indexes of its packs', (table + packs.length * 8192 * entryBytes) / 2 ** 20, 'MiB')
  const ids = Array.from({ length: 100_000 }, (_, n) => hashOf(Buffer.from(`${n % 128}/${n % 8192}`)))
  const start = performance.now()
  for (const id of ids) index.first(id, () => true)
  add('look-ups in it', ids.length / ((performance.now() - start) / 1000), '1/s', undefined, 'more')
}

function open(directory: string, upstream?: ObjectStore): Promise<LocalContentStore> {
  return openContentStore({ directory, upstream, clock: systemClock, random: systemRandom })
}

async function inDirectories(work: (...directories: [string, string, string]) => Promise<void>): Promise<void> {
  const root = mkdtempSync(join(parent, 'tutti-bench-'))
  try {
    await work(join(root, 'a'), join(root, 'b'), join(root, 'c'))
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}
