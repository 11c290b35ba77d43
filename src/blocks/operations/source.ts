import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { decodeChunk } from '../codec.ts'
import type { ContentStore } from '../content.ts'
import { isZeroId, keyOf, toHash } from '../hash.ts'
import type { Manifest } from '../manifest.ts'
import { packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { idAt, type PackIndex, type Place, placeAt } from '../pack.ts'
import { noSuchBuild, readManifest } from '../store/builds.ts'
import { makeChunkCache } from '../store/chunk-cache.ts'
import { makeChunkIndex } from '../store/chunk-index.ts'
import { inLanes } from '../store/chunk-reader.ts'
import { openImage } from '../store/image-reader.ts'
import { indexBytes, readPackEnd } from '../store/read-end.ts'

/**
 * Builds read straight from an object store, without a directory, threads or a lock: for looking at them, checking and
 * copying them, also while their content store is open elsewhere. Packs are read in blocks, so that neighbours come
 * together.
 */
export interface BuildSource extends Pick<ContentStore, 'chunk' | 'manifest' | 'open'> {
  readonly objects: ObjectStore
  /** A pack's index, verified; undefined when there is no such pack. */
  pack(name: string): Promise<PackIndex | undefined>
  /** Where a chunk lies, among packs whose indexes were read, or among those of them that are given. */
  find(id: Uint8Array, among?: ReadonlySet<string>): { pack: PackIndex; place: Place } | undefined
  /** A chunk as it is stored and as it is, verified. */
  read(pack: PackIndex, id: Uint8Array, place: Place): Promise<{ stored: Buffer; bytes: Uint8Array }>
  /** Reads the indexes of packs that are there. */
  readPacks(names: readonly string[]): Promise<void>
}

const blockBytes = 512 * 1024

export function readBuilds(
  objects: ObjectStore,
  { cacheBytes = 64 * 1024 * 1024 }: { cacheBytes?: number } = {},
): BuildSource {
  const packs: PackIndex[] = []
  const known = new Map<string, Promise<PackIndex | undefined>>()
  const chunks = makeChunkIndex()
  const blocks = makeChunkCache(cacheBytes)
  const underWay = new Map<string, Promise<Buffer>>()

  const readIndex = async (name: string): Promise<PackIndex | undefined> => {
    const index = (await readPackEnd(objects, name, indexBytes))?.index
    if (index === undefined) return undefined
    chunks.add(packs.push(index) - 1, index.entries)
    return index
  }
  const pack = (name: string): Promise<PackIndex | undefined> => {
    const found = known.get(name) ?? readIndex(name)
    known.set(name, found)
    return found
  }

  const block = (name: string, number: number): Promise<Buffer> => {
    const key = `${name}/${number}`
    const cached = blocks.get(key)
    if (cached) return Promise.resolve(cached)
    const found =
      underWay.get(key) ??
      objects
        .get(packKey(name), { offset: number * blockBytes, length: blockBytes })
        .then((bytes) => {
          blocks.put(key, bytes)
          return bytes
        })
        .finally(() => underWay.delete(key))
    underWay.set(key, found)
    return found
  }

  const storedBytes = async (name: string, { offset, storedBytes: length }: Place): Promise<Buffer> => {
    const first = Math.floor(offset / blockBytes)
    const last = Math.floor((offset + length - 1) / blockBytes)
    const parts: Buffer[] = []
    for (let number = first; number <= last; number++) {
      const from = Math.max(0, offset - number * blockBytes)
      parts.push((await block(name, number)).subarray(from, offset + length - number * blockBytes))
    }
    return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts)
  }

  const chunk: BuildSource['chunk'] = async (id, { packs: names = [], build, signal } = {}) => {
    signal?.throwIfAborted()
    let locations = chunks.find(id)
    if (locations.length === 0) {
      await source.readPacks(names)
      locations = chunks.find(id)
    }
    const what = `chunk ${toHash(id)}${build ? ` of build ${build}` : ''}`
    if (isZeroId(id)) throw new Fault('invalid', 'a chunk of zeros is not stored')
    if (locations.length === 0) throw new Fault('conflict', `${what} is missing: no pack of ${objects.url} holds it`)
    for (const { pack: number, entry } of locations) {
      const pack_ = packs[number] as PackIndex
      const place = placeAt(pack_.entries, entry)
      const { bytes } = (await source.read(pack_, id, place).catch(absent)) ?? {}
      if (bytes) return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    }
    throw corruptChunk(
      id,
      build,
      locations.map(({ pack: number }) => packs[number]?.name ?? ''),
    )
  }

  const corruptChunk = (id: Uint8Array, build: BuildId | undefined, names: readonly string[]): Fault =>
    new Fault(
      'conflict',
      `chunk ${toHash(id)}${build ? ` of build ${build}` : ''} is corrupt in ${names.map((name) => `pack ${name}`).join(' and ')} of ${objects.url}`,
    )

  const source: BuildSource = {
    objects,
    pack,
    chunk,
    find(id, among) {
      const location = chunks.first(id, (number) => among?.has(packs[number]?.name ?? '') ?? true)
      const found = location && packs[location.pack]
      return found && { pack: found, place: placeAt(found.entries, location.entry) }
    },
    async read({ name }, id, place) {
      for (const get of [
        () => storedBytes(name, place),
        // Once more, past the blocks that were read: the bytes may have come to harm on the way.
        () => objects.get(packKey(name), { offset: place.offset, length: place.storedBytes }),
      ]) {
        const stored = await get()
        const bytes = decodeChunk(id, stored, place)
        if (bytes) return { stored, bytes }
      }
      throw corruptChunk(id, undefined, [name])
    },
    readPacks: (names) =>
      inLanes(names, 16, async (name) => {
        await pack(name)
      }),
    async manifest(id: BuildId): Promise<Manifest> {
      const found = await readManifest(objects, id)
      if (!found) throw noSuchBuild(id, objects.url)
      return found
    },
    async open(image, { packs: names, build }) {
      await source.readPacks(names)
      const options = build ? { packs: names, build } : { packs: names }
      return openImage(image, {
        pages: (ids) => Promise.all(ids.map((id) => chunk(id, options))),
        chunk: (id, { signal }) => chunk(id, signal ? { ...options, signal } : options),
        prefetch: async () => {},
        isHere: () => false,
      })
    },
  }
  return source
}

/** All chunk ids in the packs, each once, with the pack and place where it was seen first. */
export function* entriesOf(pack: PackIndex): Iterable<{ id: Buffer; key: string; place: Place }> {
  for (let entry = 0; entry < pack.count; entry++) {
    const id = idAt(pack.entries, entry)
    yield { id, key: keyOf(id), place: placeAt(pack.entries, entry) }
  }
}

function absent(error: unknown): undefined {
  if (error instanceof Fault && error.code === 'conflict') return undefined
  throw error
}
