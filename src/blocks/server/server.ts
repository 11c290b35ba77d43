import { existsSync, readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../../kit/clock.ts'
import { type Log, silentLog } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { memoryChunkBytes } from '../manifest.ts'
import type { Captured } from '../memory/capture.ts'
import { linkPages, writePages } from '../memory/pages-file.ts'
import type { LocalContentStore } from '../open.ts'
import { Bases } from './bases.ts'
import { startWorker } from './call-worker.ts'
import { Captures } from './captures.ts'
import { writeDifference } from './difference.ts'
import { startDiskThreads } from './disk-threads.ts'
import { Disks } from './disks.ts'
import { importDisk } from './import-disk.ts'
import { buildOfKey, LazyMemories } from './lazy-memories.ts'
import { buildMemoryName, Memories, memoryMethod } from './memories.ts'
import type { MemoryRequest } from './memory-worker.ts'
import { type AnswerOf, blockServerVersion } from './protocol.ts'
import { type Handlers, serveRequests } from './serve.ts'
import { storeBuild } from './store-build.ts'
import type { Uploads } from './uploads.ts'

export interface ServeBlocksOptions {
  /** Nobody else's; what an earlier server left there is taken up again. */
  directory: string
  socket: string
  content: LocalContentStore
  clock: Clock
  log?: Log
  /** Brings builds to the object store that is shared with other machines. */
  uploads?: Uploads | undefined
  /** Name of that store, for whoever asks. */
  upstream?: string | undefined
  /** Bytes of disks and of differences that nobody uses. */
  keptDiskBytes?: number
  /** Bytes of memories that nobody holds. */
  keptMemoryBytes?: number
  /** Bytes of memory that stay free. */
  reservedMemoryBytes?: number
  /** Whether memories are brought here before anybody touches them; a lazy one otherwise stays as it is. */
  backgroundFill?: boolean
  /** Called when it can serve no more, and has to be started anew. */
  onBroken?: (fault: Fault) => void
  /** Called when somebody has asked it to stop. */
  onStop?: () => void
}

const GiB = 2 ** 30
/** So long a guest waits for an object store that cannot be reached. */
const outageMs = 20_000

/** The block server itself, in this process; `main.ts` gives it one of its own. */
export async function serveBlocks(options: ServeBlocksOptions): Promise<AsyncDisposable> {
  const { directory, socket, content, clock, log = silentLog } = options
  await mkdir(directory, { recursive: true, mode: 0o700 })
  await using opened = new AsyncDisposableStack()
  const keptBytes = options.keptDiskBytes ?? 20 * GiB
  const bases = new Bases({ directory: join(directory, 'bases'), content, clock, keptBytes })
  const threads = opened.use(
    startDiskThreads({
      count: Math.min(4, availableParallelism()),
      fetch: async (key, first, last) => {
        const build = buildOfKey(key)
        const since = clock.monotonic()
        for (;;) {
          const filler = build ? (await memories.find(build))?.filler : await bases.find(key)
          if (filler === undefined) throw new Fault('internal', `${key} is not open`)
          try {
            return await filler.fetch(first, last)
          } catch (error) {
            // A guest that stands still for a while is better than one that is told its memory or disk cannot be read.
            const mayPass = error instanceof Fault && error.code === 'unavailable'
            if (!mayPass || clock.monotonic() - since > outageMs) throw error
            await clock.sleep(500)
          }
        }
      },
      onBroken: (fault) => options.onBroken?.(fault),
    }),
  )
  const copier = opened.use(startWorker<MemoryRequest>('memory-worker', import.meta.url, undefined, options.onBroken))
  const captures = new Captures({ directory, clock, keptBytes })
  await captures.prepare()
  opened.defer(() => captures.settled())
  const memories = opened.use(
    new Memories({
      directory,
      content,
      keptBytes: options.keptMemoryBytes ?? 4 * GiB,
      reservedBytes: options.reservedMemoryBytes ?? GiB / 4,
    }),
  )
  const lazy = new LazyMemories({
    directory: join(directory, 'lazy'),
    memories,
    threads,
    clock,
    prefetchDisk: (build, { signal }) => bases.prefetch(build, { signal }),
    backgroundFill: options.backgroundFill ?? true,
  })
  opened.use(lazy)
  await lazy.resume()
  const disks = new Disks({ directory: join(directory, 'disks'), bases, threads, bootId: bootId(), log })
  await disks.resume()
  opened.defer(() => disks.leave())

  /** One after the other, so that the last word on a disk is the last that is written. */
  let noting = Promise.resolve()
  const noteUse = (disk: string, build: BuildId | undefined) => {
    const name = `open/${disk}`
    noting = noting
      .then(() => (build === undefined ? content.deleteReference(name) : content.setReference(name, build)))
      .catch((error: unknown) => log.warn({ err: error, disk }, 'the use of a build could not be noted'))
  }
  opened.defer(() => noting)

  /** What a build's memory may be called where a machine has it mapped. */
  const namesOf = (build: BuildId) => [buildMemoryName(build), lazy.pathOf(build)]

  const differenceOf = (build: BuildId, base: BuildId) =>
    captures.difference(build, base, (into) => writeDifference(content, { build, base, into }))

  /** Requests that are sent again while the first one is at work share it. */
  const stores = new Map<string, ReturnType<typeof storeBuild>>()
  const handlers: Handlers = {
    async openDisk(request) {
      const opened = await disks.open(request)
      // A disk that is open keeps its build from being collected. Nobody waits for that: collection gives everybody a day.
      if ('build' in request.from) noteUse(request.name, request.from.build)
      return opened
    },
    cutDisk: async ({ name }) => ({ epoch: await disks.cut(name) }),
    async closeDisk({ name }) {
      await disks.close(name)
      noteUse(name, undefined)
      return {}
    },
    async openMemory({ build, holder, lazy: mayBeLazy = false, ifHere = false }) {
      const held = await memories.open(build, holder)
      try {
        const { size } = held.image
        const isHere = held.isComplete || held.reader.isHere()
        if (ifHere && !isHere) throw new Fault('not_found', `the memory of build ${build} is not on this machine`)
        if (mayBeLazy && !isHere && lazy.isPossible) {
          return { path: await lazy.open(held, holder), size, sealed: false, lazy: true }
        }
        await held.complete()
        return { path: held.file.path, size, sealed: held.isSealed, lazy: false }
      } catch (error) {
        if (!(await lazy.isHeld(build, holder))) await memories.release(build, holder)
        throw error
      }
    },
    async releaseMemory({ build, holder }) {
      await lazy.release(build, holder)
      await memories.release(build, holder)
      return {}
    },
    newMemory: async ({ name, size, mayBeHuge = false }) => ({
      path: memories.newMemory(name, size, { mayBeHuge }),
      size,
    }),
    async closeMemory({ name }) {
      await memories.closeMemory(name)
      return {}
    },
    async releaseHolder({ holder }) {
      for (const { build, holders } of await memories.list()) {
        if (!holders.has(holder)) continue
        await lazy.release(build, holder)
        await memories.release(build, holder)
      }
      if (memories.listNew().some(({ name }) => name === holder)) await memories.closeMemory(holder)
      return {}
    },
    async captureMemory({ capture, pid, path, build, over = null, size, isInDevices = false }) {
      const names = build === null ? undefined : namesOf(build)
      const into = captures.path(capture)
      const isPrivate = build !== null
      try {
        if (isInDevices) {
          writePages(into, [], () => {})
          captures.note(capture, { image: build, over: null, size })
          return { bytes: 0 }
        }
        const request = { kind: 'capture', pid, path, names, size, isPrivate, into } as const
        const { bytes, isLayered } = await copier.call<Captured>(request)
        captures.note(capture, { image: build, over: isLayered ? over : null, size })
        return { bytes }
      } catch (error) {
        captures.drop(capture)
        throw error
      }
    },
    async placeDifference({ build, base, at }) {
      const pages = await differenceOf(build, base)
      linkPages(pages, at)
      return {}
    },
    async applyMemory({ pid, path, base, build, size }) {
      const from = await differenceOf(build, base)
      return { bytes: await copier.call<number>({ kind: 'apply', pid, path, names: namesOf(base), size, from }) }
    },
    async store(request) {
      const underWay = stores.get(request.build)
      if (underWay) return await underWay
      const storing = storeBuild({ content, disks, memories, captures }, request)
      stores.set(request.build, storing)
      try {
        const stored = await storing
        // A fork's children start where it was made, and nobody else ever wants it; nor a layer.
        const isWanted = request.reason !== 'layer' && !request.reference.startsWith('fork/')
        if (isWanted) options.uploads?.add(request.build)
        return stored
      } finally {
        stores.delete(request.build)
      }
    },
    async dropCapture({ capture }) {
      captures.drop(capture)
      return {}
    },
    async touched({ pid, path, size }) {
      const request = { kind: 'touched', pid, path, names: undefined, size, chunkBytes: memoryChunkBytes } as const
      return { chunks: await copier.call<number[]>(request) }
    },
    touchedDisk: async ({ name }) => ({ chunks: await disks.touched(name) }),
    async devices({ build, path }) {
      const { snapshot, packs } = await content.manifest(build)
      if (snapshot === null) throw new Fault('invalid', `build ${build} is of a disk only: it has no device state`)
      const reader = await content.open(snapshot.devices, { packs, build })
      const count = Math.ceil(snapshot.devices.size / snapshot.devices.chunkBytes)
      const bytes = Buffer.concat(await Promise.all(Array.from({ length: count }, (_, number) => reader.read(number))))
      await writeFile(path, bytes, { mode: 0o600 })
      return { bytes: bytes.length }
    },
    manifest: async ({ build }) => ({ manifest: await content.manifest(build) }),
    importDisk: async (request) => ({ manifest: await importDisk(content, request) }),
    reference: async ({ name }) => ({ build: (await content.reference(name)) ?? null }),
    async setReference({ name, build }) {
      await content.setReference(name, build)
      return {}
    },
    async deleteReference({ name }) {
      await content.deleteReference(name)
      options.uploads
        ?.forget(name)
        .catch((error: unknown) => log.warn({ err: error, name }, 'a name stays in the store'))
      return {}
    },
    collect: (request) => content.collect(request),
    async adopt({ manifest, reference }) {
      await content.adopt(manifest, reference)
      return {}
    },
    async list() {
      const held = await memories.list()
      return {
        disks: await disks.list(),
        memories: held.map(({ build, holders, bytes, filler }) => ({
          ...{ build, holders: [...holders], bytes, fetchedBytes: filler.fetchedBytes },
          fault: filler.fault?.message ?? null,
        })),
        captures: captures.list(),
        newMemories: memories.listNew(),
        upstream: options.upstream ?? null,
        uploads: options.uploads?.list() ?? [],
        method: {
          memory: memoryMethod(),
          capture: captureMethod(),
          lazy: lazy.isPossible ? 'fuse' : 'none',
        },
        pid: process.pid,
        version: blockServerVersion,
      }
    },
    async usage() {
      const { bytes, fetchedBytes } = await content.usage()
      const { read, written } = await threads.traffic()
      return { bytes, fetchedBytes, downloadedBytes: content.fetchedBytes, readBytes: read, writtenBytes: written }
    },
    async trim(budget) {
      const open = [...(await disks.list()), ...(await memories.list()).filter(({ holders }) => holders.size > 0)]
      using pins = new DisposableStack()
      for (const build of new Set(open.map((each) => each.build)))
        if (build !== null) pins.use(content.pin(await content.manifest(build)))
      const { removed, ...report } = await content.trim(budget)
      return { ...report, packs: removed.length }
    },
    async stop() {
      options.onStop?.()
      return {}
    },
  }
  opened.use(await serveRequests({ socket, handlers, log }))
  return opened.move()
}

function captureMethod(): AnswerOf<'list'>['method']['capture'] {
  if (process.platform !== 'linux') return 'none'
  return existsSync('/proc/self/pagemap') ? 'pagemap' : 'compare'
}

/** Differs after every start of the machine, where the system says so. */
function bootId(): bigint {
  try {
    const text = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')
    return BigInt(`0x${text.replaceAll('-', '').slice(0, 16)}`)
  } catch {
    return 1n
  }
}
