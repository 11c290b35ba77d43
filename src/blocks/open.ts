import { readdir, rm, stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../kit/clock.ts'
import { type Log, silentLog } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import type { BuildId } from '../model/ids.ts'
import type { ContentStore } from './content.ts'
import { type Files, makeDirectory, realFiles } from './files.ts'
import type { Manifest } from './manifest.ts'
import { fileObjects } from './objects/file.ts'
import { buildKey, referenceKey } from './objects/keys.ts'
import { retrying } from './objects/retry.ts'
import type { ObjectStore } from './objects.ts'
import { defaultGraceMs } from './operations/collect.ts'
import { type CleanOptions, type CleanReport, collectAndRepack } from './operations/collect-and-repack.ts'
import { adopt } from './store/adopt.ts'
import { makeBuildWriter } from './store/build-writer.ts'
import { noSuchBuild, readManifest, readReference, writeReference } from './store/builds.ts'
import { makeSlabs } from './store/chunk-pipeline.ts'
import { makeChunkReader } from './store/chunk-reader.ts'
import { condemnedPacks, readCondemned } from './store/condemned.ts'
import { makeLocalPacks } from './store/local-packs.ts'
import { lockDirectory } from './store/lock.ts'
import { manifestNow } from './store/manifest-now.ts'
import { type CacheBudget, type CacheUsage, makeNodeCache, type TrimReport } from './store/node-cache.ts'
import { sideBySide } from './store/side-by-side.ts'
import { makeUpstream } from './store/upstream.ts'
import { startWorkers } from './store/workers.ts'

export interface LocalContentStore extends ContentStore, AsyncDisposable {
  readonly directory: string
  /** The directory as an object store: what was made here. */
  readonly objects: ObjectStore
  /** Bytes fetched from the object store since the start. */
  readonly fetchedBytes: number
  /** Keeps a build's packs on this machine, as long as something uses it. */
  pin(build: Manifest): Disposable
  usage(): Promise<CacheUsage>
  /** Makes room when more than `highBytes` of packs lie here: the coldest ones go until `lowBytes` are left. */
  trim(budget: CacheBudget): Promise<TrimReport>
  /** Removes what no reference of this directory leads to; see `collect` and `repack`. */
  collect(options?: Omit<CleanOptions, 'clock'>): Promise<CleanReport>
  /** Makes a build of packs that were copied into the directory; a `conflict` when one of them is not there any more. */
  adopt(manifest: Manifest, reference: string): Promise<void>
}

/**
 * The content store of a directory:
 *
 *     packs/ builds/ refs/   as in an object store: what was made here
 *     cache/packs            packs of the object store with holes for what was not fetched
 *     cache/builds           manifests of the object store
 *     tmp/                   what is being written
 *     lock                   held while the store is open
 */
export async function openContentStore({
  directory,
  upstream: remote,
  clock,
  random,
  log = silentLog,
  cacheBytes = 256 * 1024 * 1024,
  files = realFiles,
  threads = availableParallelism(),
}: {
  directory: string
  /** Where builds are that are not here. */
  upstream?: ObjectStore | undefined
  clock: Clock
  random: Random
  log?: Log
  /** For decompressed chunks in memory. */
  cacheBytes?: number
  files?: Files
  /** For hashing and compressing. */
  threads?: number
}): Promise<LocalContentStore> {
  for (const name of ['', 'packs', 'builds', 'refs', 'tmp', 'cache/packs', 'cache/builds'])
    await makeDirectory(files, join(directory, name))
  await using opened = new AsyncDisposableStack()
  opened.use(lockDirectory(directory))
  await removeUnfinished(directory, 'pack-', Number.POSITIVE_INFINITY)
  const workers = opened.use(startWorkers(threads, { clock }))
  const packs = opened.use(makeLocalPacks({ workers, files, clock, log }))
  await packs.scan(join(directory, 'packs'), 'whole')
  await packs.scan(join(directory, 'cache/packs'), 'fetched')
  const objects = fileObjects({ directory, random, files })
  const cached = fileObjects({ directory: join(directory, 'cache'), random, files })
  const upstream =
    remote &&
    makeUpstream({
      objects: retrying(remote, { clock, random }),
      packs,
      directory: join(directory, 'cache/packs'),
      onFull: async () => {
        await cache.trim({ highBytes: 0, lowBytes: (await cache.usage()).bytes / 2 })
      },
    })
  const cache = makeNodeCache({ packs, objects, upstream: upstream?.objects })
  const packsNow = async (build: BuildId): Promise<readonly string[]> => {
    const now = upstream && (await manifestNow(build, { here: objects, there: upstream.objects }))
    if (now) void keep(now)
    return now?.packs ?? []
  }
  const reader = makeChunkReader({ directory: join(directory, 'packs'), packs, upstream, packsNow, cacheBytes, log })
  const slabs = makeSlabs(threads * 3)
  const builders = sideBySide()

  /** Manifests that are being written down; whoever asked for one does not wait for the disk. */
  let keeping: Promise<unknown> = Promise.resolve()
  opened.defer(() => keeping.then(() => {}))
  const keep = async (found: Manifest): Promise<void> => {
    const body = Buffer.from(JSON.stringify(found))
    const kept = cached.put(buildKey(found.id), body, { size: body.length }).catch(() => {})
    keeping = Promise.all([keeping, kept])
    await kept
  }
  const manifest = async (id: BuildId): Promise<Manifest> => {
    const here =
      (await readManifest(objects, id)) ?? (upstream && (await readManifest(cached, id).catch(() => undefined)))
    if (here) return here
    const found = upstream && (await fetchManifest(upstream.objects, id))
    if (!found) throw noSuchBuild(id, upstream ? `${directory} or ${upstream.objects.url}` : directory)
    return found
  }

  /** Those who ask while it is on its way, or not yet written down here, share it. */
  const fetching = new Map<BuildId, Promise<Manifest | undefined>>()
  const fetchManifest = (from: ObjectStore, id: BuildId): Promise<Manifest | undefined> => {
    const underWay = fetching.get(id)
    if (underWay) return underWay
    const fetched = readManifest(from, id)
    fetching.set(id, fetched)
    const done = () => void fetching.delete(id)
    fetched.then((found) => found && keep(found)).then(done, done)
    return fetched
  }

  const resources = opened.move()
  return {
    directory,
    objects,
    get fetchedBytes() {
      return upstream?.fetchedBytes ?? 0
    },
    chunk: reader.chunk,
    manifest,
    open: reader.open,
    pin: cache.pin,
    usage: cache.usage,
    trim: cache.trim,
    async collect(options = {}) {
      const alone = options.dryRun ? undefined : builders.alone
      const report = await collectAndRepack(objects, { clock, ...options }, alone)
      await packs.scan(join(directory, 'packs'), 'whole', report.repacked?.made ?? [])
      if (!report.isDryRun) await removeUnfinished(directory, 'put-', clock.now() - (options.graceMs ?? defaultGraceMs))
      return report
    },
    adopt: (manifest, reference) => builders.alone(() => adopt(objects, manifest, reference)),
    async write({ basedOn } = {}) {
      using joined = new DisposableStack()
      joined.use(await builders.join())
      // In this order: what is not on the list now was never on it, or is gone already.
      const condemned = condemnedPacks(await readCondemned(objects))
      await packs.forgetRemoved(join(directory, 'packs'))
      const openPacks = (names: readonly string[]) => reader.openPacks(names, { build: basedOn?.id })
      const startedFrom = basedOn && { ...basedOn, packs: [...(await openPacks(basedOn.packs))] }
      const held = cache.hold(startedFrom)
      const shared = { directory, packs, objects, workers, slabs, files, random, condemned, openPacks }
      const parts = { ...shared, basedOn: startedFrom }
      const writer = makeBuildWriter(parts)
      const building = joined.move()
      return {
        ...writer,
        async [Symbol.asyncDispose]() {
          held[Symbol.dispose]()
          await writer[Symbol.asyncDispose]()
          building.dispose()
        },
      }
    },
    async setReference(name, build) {
      referenceKey(name)
      await manifest(build)
      await writeReference(objects, name, build)
    },
    async reference(name) {
      return (await readReference(objects, name)) ?? (upstream && (await readReference(upstream.objects, name)))
    },
    async deleteReference(name) {
      await objects.delete(referenceKey(name))
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  }
}

/** What a crash left half written. Nobody else writes packs here; other files may be under way in another process. */
async function removeUnfinished(directory: string, prefix: string, before: number): Promise<void> {
  for (const name of await readdir(join(directory, 'tmp'))) {
    const path = join(directory, 'tmp', name)
    if (name.startsWith(prefix)) {
      const found = await stat(path).catch(() => undefined)
      if (found && found.mtimeMs < before) await rm(path, { force: true })
    }
  }
}
