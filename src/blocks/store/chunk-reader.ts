import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ImageReader } from '../content.ts'
import { isZeroId, keyOf, toHash } from '../hash.ts'
import type { Image } from '../manifest.ts'
import { placeAt } from '../pack.ts'
import { makeChunkCache } from './chunk-cache.ts'
import type { Location } from './chunk-index.ts'
import { openImage } from './image-reader.ts'
import type { LocalPack, LocalPacks } from './local-packs.ts'
import { ranges, requestBytes, type Upstream } from './upstream.ts'

export interface ReadOptions {
  packs?: readonly string[] | undefined
  build?: BuildId | undefined
  signal?: AbortSignal | undefined
  /** Chunks that are fetched along when this one must be fetched. */
  near?: () => readonly Uint8Array[]
}

/**
 * Finds a chunk wherever it is: in memory, in a pack of this machine, in a pack of the object store. Readers of the same
 * chunk at the same time share the work; a reader who gives up does not take it from the others.
 */
export interface ChunkReader {
  chunk(id: Uint8Array, options?: ReadOptions): Promise<Buffer>
  open(image: Image, options: { packs: readonly string[]; build?: BuildId }): Promise<ImageReader>
  /**
   * Reads the indexes of packs that are not known yet: here, or from the object store, if there is one. When some are gone
   * there because the store was repacked, opens those that have taken their place; gives all that are open now.
   */
  openPacks(names: readonly string[], options?: { build?: BuildId | undefined }): Promise<readonly string[]>
}

export function makeChunkReader({
  directory,
  packs,
  upstream,
  packsNow,
  cacheBytes,
  log,
}: {
  /** For whole packs. */
  directory: string
  packs: LocalPacks
  upstream: Upstream | undefined
  /** The packs that hold a build now, as far as the object store knows. */
  packsNow: (build: BuildId) => Promise<readonly string[]>
  cacheBytes: number
  log: Log
}): ChunkReader {
  const cache = makeChunkCache(cacheBytes)
  const underWay = new Map<string, Promise<Buffer>>()

  const chunk: ChunkReader['chunk'] = (id, options = {}) => {
    if (options.signal?.aborted) return Promise.reject(options.signal.reason)
    const key = keyOf(id)
    const cached = cache.get(key)
    if (cached) return Promise.resolve(cached)
    let reading = underWay.get(key)
    if (!reading) {
      reading = find(id, options)
        .then((bytes) => {
          cache.put(key, bytes)
          return bytes
        })
        .finally(() => underWay.delete(key))
      underWay.set(key, reading)
    }
    return options.signal ? abandonable(reading, options.signal) : reading
  }

  const find = async (id: Uint8Array, options: ReadOptions): Promise<Buffer> => {
    const corrupt: string[] = []
    // Twice: a pack may be collected between finding it and reading it, and the chunk be elsewhere.
    for (const isLast of [false, true]) {
      for (const location of whatIsHere(packs, id)) {
        const pack = packs.byNumber(location.pack)
        const bytes = pack && (await packs.read(pack, location.entry))
        if (bytes) return bytes
        if (pack && packs.byNumber(pack.number) && (!pack.have || pack.have[location.entry] === 1)) {
          corrupt.push(pack.index.name)
          log.warn({ chunk: toHash(id), pack: pack.index.name }, 'a chunk is corrupt here')
        }
        if (pack?.have) pack.have[location.entry] = 0
        const better = pack && !pack.have && (await upstream?.readPast(pack, location.entry))
        if (better) return better
      }
      const fetched = await fetchAndRead(id, options, corrupt)
      if (fetched) return fetched
      if (isLast || packs.chunks.find(id).every(({ pack }) => packs.byNumber(pack)?.have)) break
    }
    const what = `chunk ${toHash(id)}${options.build ? ` of build ${options.build}` : ''}`
    if (corrupt.length === 0) throw new Fault('conflict', `${what} is missing: no pack that can be reached holds it`)
    const places = [...new Set(corrupt)].map((name) => `pack ${name}`).join(' and ')
    throw new Fault('conflict', `${what} is corrupt in ${places}${upstream ? ` and in ${upstream.objects.url}` : ''}`)
  }

  const fetchAndRead = async (id: Uint8Array, options: ReadOptions, corrupt: string[]): Promise<Buffer | undefined> => {
    if (!upstream) return undefined
    const { packs: names = [], build, near } = options
    const here = (): { pack: LocalPack; entry: number } | undefined => {
      for (const { pack: number, entry } of packs.chunks.find(id)) {
        const pack = packs.byNumber(number)
        if (pack?.have) return { pack, entry }
      }
      return undefined
    }
    if (!here()) await openPacks(names, { build })
    const found = here()
    if (!found) return undefined
    const { pack, entry } = found
    const isComing = upstream.isUnderWay(pack, entry)
    const others = isComing ? [] : (near?.() ?? []).flatMap((other) => missingFrom(packs, pack, other))
    const together = others.length > 0 ? around(pack, entry, others) : [entry]
    // What came may be corrupt on the way or where it lies: it is asked for once more, and then not again.
    for (const again of [false, true]) {
      try {
        await upstream.fetch(pack, again ? [entry] : together, { again, until: 'first' })
      } catch (error) {
        // No room to keep it, or the pack was evicted to make some: then it is read without being kept.
        if (!(error instanceof Fault) || (error.code !== 'exhausted' && error.code !== 'not_found')) throw error
        const past = await upstream.readPast(pack, entry)
        if (past || (await upstream.has(pack))) return past
        // Gone there: what was needed of it lies elsewhere now.
        await packs.remove(pack)
        return fetchAndRead(id, options, corrupt)
      }
      const bytes = await packs.read(pack, entry)
      if (bytes) return bytes
      corrupt.push(pack.index.name)
      if (pack.have) pack.have[entry] = 0
      log.warn({ chunk: toHash(id), pack: pack.index.name, from: upstream.objects.url }, 'a chunk came corrupt')
    }
    return undefined
  }

  const openPacks: ChunkReader['openPacks'] = async (names, { build } = {}) => {
    try {
      await openAll(names)
      return names
    } catch (error) {
      if (!build || !(error instanceof Fault) || error.code !== 'conflict') throw error
      const now = (await packsNow(build)).filter((name) => !names.includes(name))
      if (now.length === 0) throw error
      await openAll(now)
      await Promise.allSettled(names.map((name) => openAll([name])))
      return [...now, ...names].filter((name) => packs.byName(name))
    }
  }

  const openAll = async (names: readonly string[]): Promise<void> => {
    const unknown = names.filter((name) => !packs.byName(name))
    if (unknown.length === 0) return
    // Another process may have copied them here.
    await packs.scan(directory, 'whole', unknown)
    const missing = unknown.filter((name) => !packs.byName(name))
    if (!upstream) return
    await inLanes(missing, 16, async (name) => {
      await upstream.openPack(name)
    })
  }

  const isKnown = (id: Uint8Array): boolean => packs.chunks.first(id, () => true) !== undefined

  /** Until these chunks are found: the first pack has what is wanted first, where somebody has put it together. */
  const openPacksWith = async (
    ids: readonly Uint8Array[],
    names: readonly string[],
    build: BuildId | undefined,
  ): Promise<void> => {
    const [first] = names
    if (first === undefined || ids.every(isKnown)) return
    if (upstream && !packs.byName(first)) {
      await packs.scan(directory, 'whole', [first])
      if (!packs.byName(first)) await upstream.openPack(first, { endBytes: firstPackEndBytes }).catch(leaveToOthers)
    }
    if (!ids.every(isKnown)) await openPacks(names, { build })
  }

  return {
    chunk,
    openPacks,
    async open(image, { packs: names, build }) {
      const prefetchOf = async (ids: readonly Uint8Array[], signal?: AbortSignal) => {
        await openPacksWith(ids, names, build)
        await prefetch(ids, signal)
      }
      return openImage(image, {
        pages: async (ids) => {
          await prefetchOf(ids)
          return Promise.all(ids.map((id) => chunk(id, { packs: names, build })))
        },
        chunk: (id, options) => chunk(id, { ...options, packs: names, build }),
        prefetch: prefetchOf,
        isHere: (id) => upstream === undefined || whatIsHere(packs, id).length > 0,
      })
    },
  }

  async function prefetch(ids: readonly Uint8Array[], signal?: AbortSignal): Promise<void> {
    if (!upstream) return
    for (let at = 0; at < ids.length; at += prefetchTogether) {
      signal?.throwIfAborted()
      const wanted = new Map<LocalPack, number[]>()
      for (const id of ids.slice(at, at + prefetchTogether)) {
        if (whatIsHere(packs, id).length > 0) continue
        const location = packs.chunks.first(id, (number) => packs.byNumber(number)?.have !== undefined)
        const pack = location && packs.byNumber(location.pack)
        if (!pack) continue
        const entries = wanted.get(pack)
        if (entries) entries.push(location.entry)
        else wanted.set(pack, [location.entry])
      }
      const requests = [...wanted].flatMap(([pack, entries]) =>
        ranges(pack.index, entries).map((range) => [pack, range] as const),
      )
      await inLanes(requests, prefetchLanes, ([pack, range]) => upstream.fetch(pack, range).catch(leaveToReaders))
    }
  }
}

/** Its index and, most of the time, the maps that lie before it. */
const firstPackEndBytes = 512 * 1024
/** Chunks of a prefetch list that are asked for at once: the order of the list is kept only between such groups. */
const prefetchTogether = 256
/** Requests at the same time, so few that whoever waits for a chunk is not behind all of them. */
const prefetchLanes = 16

/** Whatever is wrong with one pack, its chunks may lie in others. */
function leaveToOthers(error: unknown): void {
  if (!(error instanceof Fault) || error.code !== 'conflict') throw error
}

/** A pack that is gone was evicted or repacked: whoever reads its chunks finds them. */
function leaveToReaders(error: unknown): void {
  if (!(error instanceof Fault) || error.code !== 'not_found') throw error
}

/** Whole packs first, then fetched ones that have the chunk or may have it. */
function whatIsHere(packs: LocalPacks, id: Uint8Array): Location[] {
  if (isZeroId(id)) throw new Fault('invalid', 'a chunk of zeros is not stored')
  const found = packs.chunks.find(id).filter(({ pack, entry }) => {
    const have = packs.byNumber(pack)?.have
    return have?.[entry] !== 0
  })
  if (found.length < 2) return found
  return found.sort((a, b) => Number(!!packs.byNumber(a.pack)?.have) - Number(!!packs.byNumber(b.pack)?.have))
}

function missingFrom(packs: LocalPacks, pack: LocalPack, id: Uint8Array): number[] {
  const location = packs.chunks.first(id, (number) => number === pack.number)
  return location && pack.have?.[location.entry] === 0 ? [location.entry] : []
}

/** The wanted entry, and those others that lie so near that fetching them along costs little. */
function around(pack: LocalPack, entry: number, others: readonly number[]): number[] {
  const start = placeAt(pack.index.entries, entry).offset
  return [entry, ...others.filter((n) => Math.abs(placeAt(pack.index.entries, n).offset - start) <= requestBytes)]
}

/** Works on all items, some at a time. At the first failure no other is begun; it is thrown when none is under way. */
export async function inLanes<T>(items: readonly T[], lanes: number, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async () => {
    try {
      while (next < items.length) await work(items[next++] as T)
    } catch (error) {
      next = items.length
      throw error
    }
  }
  const done = await Promise.allSettled(Array.from({ length: Math.min(lanes, items.length) }, lane))
  for (const result of done) if (result.status === 'rejected') throw result.reason
}

function abandonable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const giveUp = () => reject(signal.reason)
    signal.addEventListener('abort', giveUp, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', giveUp))
  })
}
