import { entryBytes } from '../pack.ts'

/** Where a chunk lies: the number of a pack, and of an entry in it. */
export interface Location {
  pack: number
  entry: number
}

export interface ChunkIndex {
  readonly size: number
  add(pack: number, entries: Buffer): void
  remove(pack: number): void
  /** Everywhere that the chunk lies; the same chunk may be in several packs. */
  find(id: Uint8Array): Location[]
  /** The first of them that `accepts`, without making a list. */
  first(id: Uint8Array, accepts: (pack: number) => boolean): Location | undefined
}

/**
 * Which pack holds a chunk, for all packs of a store: the packs' own indexes as they were read, and over them one open
 * hash table of typed arrays. 60 bytes a chunk, so a million of them are 60 MB, and nothing for the collector to walk.
 */
export function makeChunkIndex(): ChunkIndex {
  const indexes: (Buffer | undefined)[] = []
  let capacity = 1024
  let packs = new Int32Array(capacity).fill(empty)
  let entries = new Uint32Array(capacity)
  let prints = new Uint32Array(capacity)
  let live = 0
  /** Live slots and those whose pack was removed: both lengthen a search. */
  let used = 0

  const insert = (pack: number, entry: number, index: Buffer): void => {
    const at = entry * entryBytes
    let slot = index.readUInt32LE(at) & (capacity - 1)
    while ((packs[slot] as number) >= 0) slot = (slot + 1) & (capacity - 1)
    if (packs[slot] === empty) used++
    packs[slot] = pack
    entries[slot] = entry
    prints[slot] = index.readUInt32LE(at + 4)
    live++
  }

  const makeRoom = (more: number): void => {
    if (used + more <= capacity / 2) return
    while (capacity / 2 < (live + more) * 1.5) capacity *= 2
    packs = new Int32Array(capacity).fill(empty)
    entries = new Uint32Array(capacity)
    prints = new Uint32Array(capacity)
    live = 0
    used = 0
    for (const [pack, index] of indexes.entries())
      if (index) for (let entry = 0; entry < index.length / entryBytes; entry++) insert(pack, entry, index)
  }

  const first = (id: Uint8Array, accepts: (pack: number, entry: number) => boolean): Location | undefined => {
    const print = number(id, 4)
    for (let slot = number(id, 0) & (capacity - 1); packs[slot] !== empty; slot = (slot + 1) & (capacity - 1)) {
      const pack = packs[slot] as number
      if (pack < 0 || prints[slot] !== print) continue
      const entry = entries[slot] as number
      if (isAt(indexes[pack], entry, id) && accepts(pack, entry)) return { pack, entry }
    }
    return undefined
  }

  return {
    get size() {
      return live
    },
    add(pack, index) {
      const count = index.length / entryBytes
      makeRoom(count)
      indexes[pack] = index
      for (let entry = 0; entry < count; entry++) insert(pack, entry, index)
    },
    remove(pack) {
      if (!indexes[pack]) return
      indexes[pack] = undefined
      for (let slot = 0; slot < capacity; slot++) {
        if (packs[slot] !== pack) continue
        packs[slot] = removed
        live--
      }
    },
    find(id) {
      const found: Location[] = []
      first(id, (pack, entry) => {
        found.push({ pack, entry })
        return false
      })
      return found
    },
    first,
  }
}

const empty = -1
const removed = -2

function number(id: Uint8Array, at: number): number {
  return (
    ((id[at] as number) |
      ((id[at + 1] as number) << 8) |
      ((id[at + 2] as number) << 16) |
      ((id[at + 3] as number) << 24)) >>>
    0
  )
}

function isAt(index: Buffer | undefined, entry: number, id: Uint8Array): boolean {
  if (!index) return false
  // A loop, since a call of compare costs more than 32 steps.
  for (let n = 0, at = entry * entryBytes; n < 32; n++, at++) if (index[at] !== id[n]) return false
  return true
}
