import { open } from 'node:fs/promises'
import { Fault } from '../../model/fault.ts'
import { decodeChunk } from '../codec.ts'
import { fileFault } from '../files.ts'
import { packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { footerBytes, idAt, type PackIndex, placeAt, sealPack } from '../pack.ts'
import type { LocalPack, LocalPacks } from './local-packs.ts'
import { indexBytes, readPackEnd } from './read-end.ts'

/**
 * Packs that lie in an object store, fetched in parts: a file of the pack's size with the index at its end, and holes
 * where chunks are not here yet. Nothing in it needs to be durable or even right, since every chunk is verified whenever
 * it is read.
 */
export interface Upstream {
  readonly objects: ObjectStore
  /**
   * Reads the pack's index, unless that was done; readers at the same time share it. So many bytes are read from its end,
   * and chunks that come with them are kept.
   */
  openPack(name: string, options?: { endBytes?: number }): Promise<LocalPack>
  /**
   * Brings chunks of a pack here that are not, in as few requests as their places allow; readers share fetches. Waits for
   * all of them, or only for the first one of the list.
   */
  fetch(
    pack: LocalPack,
    entries: readonly number[],
    options?: { again?: boolean; until?: 'all' | 'first' },
  ): Promise<void>
  isUnderWay(pack: LocalPack, entry: number): boolean
  /** Whether the object store still has the pack. */
  has(pack: LocalPack): Promise<boolean>
  /** One chunk past what lies here; undefined when it is not there either, or not what it should be. */
  readPast(pack: LocalPack, entry: number): Promise<Buffer | undefined>
  /** Bytes of packs' chunks and indexes that were fetched so far. */
  readonly fetchedBytes: number
}

/** Bytes between two wanted chunks that are fetched rather than asked for apart. */
const gapBytes = 32 * 1024
/** Bytes of one request. */
export const requestBytes = 1024 * 1024

export function makeUpstream({
  objects,
  packs,
  directory,
  onFull,
}: {
  objects: ObjectStore
  packs: LocalPacks
  /** For the files with holes. */
  directory: string
  /** Makes room when the disk is full. */
  onFull: () => Promise<void>
}): Upstream {
  const opening = new Map<string, Promise<LocalPack>>()
  const fetching = new Map<LocalPack, Map<number, Promise<void>>>()
  let fetchedBytes = 0

  const get = async (name: string, offset: number, length: number): Promise<Buffer> => {
    const bytes = await objects.get(packKey(name), { offset, length })
    fetchedBytes += bytes.length
    return bytes
  }

  const withRoom = (write: () => Promise<void>): Promise<void> =>
    write().catch(async (error: Fault) => {
      if (error.code !== 'exhausted') throw error
      await onFull()
      await write()
    })

  const openNew = async (name: string, endBytes: number): Promise<LocalPack> => {
    const end = await readPackEnd(objects, name, endBytes)
    if (end === undefined) throw new Fault('conflict', `pack ${name} is missing in ${objects.url}`)
    const { index, bytes, start, readBytes } = end
    fetchedBytes += readBytes
    await withRoom(() => makeFileWithHoles(`${directory}/${name}`, index))
    const pack = packs.add(index, directory, 'fetched')
    await keep(pack, start, bytes).catch(() => {}) // then they are fetched when they are read
    return pack
  }

  /** Chunks that lie in a piece of a pack are here from now on. */
  const keep = async (
    pack: LocalPack,
    offset: number,
    bytes: Buffer,
    last: number = pack.index.count - 1,
  ): Promise<void> => {
    await withRoom(() => packs.fill(pack, offset, bytes))
    if (!pack.have) return
    for (let entry = last; entry >= 0; entry--) {
      const place = placeAt(pack.index.entries, entry)
      if (place.offset < offset) break
      if (place.offset + place.storedBytes <= offset + bytes.length) pack.have[entry] = 1
    }
  }

  const fetchRange = async (pack: LocalPack, entries: readonly number[]): Promise<void> => {
    const first = placeAt(pack.index.entries, entries[0] as number)
    const last = placeAt(pack.index.entries, entries.at(-1) as number)
    const bytes = await get(pack.index.name, first.offset, last.offset + last.storedBytes - first.offset)
    await keep(pack, first.offset, bytes, entries.at(-1))
  }

  return {
    objects,
    get fetchedBytes() {
      return fetchedBytes
    },
    openPack(name, { endBytes = indexBytes } = {}) {
      const known = packs.byName(name)
      if (known) return Promise.resolve(known)
      let found = opening.get(name)
      if (found === undefined) {
        found = openNew(name, endBytes).finally(() => opening.delete(name))
        opening.set(name, found)
      }
      return found
    },
    isUnderWay: (pack, entry) => fetching.get(pack)?.has(entry) ?? false,
    has: async (pack) => (await objects.size(packKey(pack.index.name))) !== undefined,
    async readPast(pack, entry) {
      const place = placeAt(pack.index.entries, entry)
      const stored = await get(pack.index.name, place.offset, place.storedBytes).catch((error: Fault) => {
        if (error.code === 'not_found') return undefined
        throw error
      })
      const bytes = stored && decodeChunk(idAt(pack.index.entries, entry), stored, place)
      return bytes && Buffer.from(bytes)
    },
    async fetch(pack, wanted, { again = false, until = 'all' } = {}) {
      const underWay = fetching.get(pack) ?? new Map<number, Promise<void>>()
      fetching.set(pack, underWay)
      const waits = new Map<number, Promise<void>>()
      const missing: number[] = []
      for (const entry of new Set(wanted)) {
        const other = underWay.get(entry)
        if (other !== undefined) waits.set(entry, other)
        else if (again || pack.have?.[entry] !== 1) missing.push(entry)
      }
      for (const range of ranges(pack.index, missing)) {
        const fetched = fetchRange(pack, range).finally(() => {
          for (const entry of range) underWay.delete(entry)
          if (underWay.size === 0 && fetching.get(pack) === underWay) fetching.delete(pack)
        })
        fetched.catch(() => {})
        for (const entry of range) {
          underWay.set(entry, fetched)
          waits.set(entry, fetched)
        }
      }
      if (underWay.size === 0 && fetching.get(pack) === underWay) fetching.delete(pack)
      if (until === 'first') return waits.get(wanted[0] as number)
      for (const result of await Promise.allSettled(new Set(waits.values())))
        if (result.status === 'rejected') throw result.reason
    },
  }
}

/** Entries put together where they lie so close that one request for all is less than one for each. */
export function ranges(index: PackIndex, entries: readonly number[]): number[][] {
  const found: number[][] = []
  let start = 0
  let end = Number.NEGATIVE_INFINITY
  for (const entry of [...entries].sort((a, b) => a - b)) {
    const { offset, storedBytes } = placeAt(index.entries, entry)
    const current = found.at(-1)
    if (current && offset - end <= gapBytes && offset + storedBytes - start <= requestBytes) current.push(entry)
    else {
      found.push([entry])
      start = offset
    }
    end = offset + storedBytes
  }
  return found
}

async function makeFileWithHoles(path: string, index: PackIndex): Promise<void> {
  try {
    await using file = await open(path, 'w', 0o600)
    await file.truncate(index.size)

    const { trailer } = sealPack(index.entries, index.size - index.entries.length - footerBytes)
    await file.write(trailer, 0, trailer.length, index.size - trailer.length)
  } catch (error) {
    throw fileFault(`cannot keep the index of pack ${index.name}`, error)
  }
}
