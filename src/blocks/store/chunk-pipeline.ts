import { isZero, keyOf, zeroId } from '../hash.ts'
import type { StoredChunk } from './pack-writer.ts'
import { makeSlab, type Slab, type SlabView, skip, slabBytes, slabChunks, viewSlab } from './slab.ts'
import type { Workers } from './workers.ts'

/**
 * From bytes to stored chunks: copied into a slab, hashed by a worker, left out when known, compressed by a worker,
 * appended to a pack. There are only so many slabs, so whoever adds faster than the disk takes waits.
 */
export interface ChunkPipeline {
  add(bytes: Uint8Array): Promise<Uint8Array>
  /** Whether this pipeline has stored the chunk. */
  hasStored(id: Uint8Array): boolean
}

export function chunkPipeline({
  workers,
  slabs,
  isKnown,
  append,
}: {
  workers: Workers
  slabs: Slabs
  isKnown: (id: Uint8Array) => boolean
  append: (chunks: readonly StoredChunk[]) => Promise<void>
}): ChunkPipeline {
  const stored = new Set<string>()
  let queue: Adding[] = []
  let batch: Batch | undefined
  let isWaiting = false
  let isDue = false

  const pump = (): void => {
    let next = 0
    for (; next < queue.length; next++) {
      const adding = queue[next] as Adding
      if (batch && !batch.fits(adding.bytes)) send()
      if (!batch) {
        const slab = slabs.take(adding.bytes.byteLength)
        if (slab instanceof Promise) {
          isWaiting = true
          void slab.then((taken) => {
            isWaiting = false
            batch = startBatch(taken)
            pump()
          })
          break
        }
        batch = startBatch(slab)
      }
      batch.put(adding)
    }
    queue = queue.slice(next)
    if (batch && batch.added.length > 0 && !isDue) {
      isDue = true
      setImmediate(() => {
        isDue = false
        if (batch && batch.added.length > 0) send()
      })
    }
  }

  const send = (): void => {
    const sent = batch as Batch
    batch = undefined
    process(sent)
      .then(
        (ids) => {
          for (const [n, { done }] of sent.added.entries()) done.resolve(ids[n] as Uint8Array)
        },
        (error) => {
          for (const { done } of sent.added) done.reject(error)
        },
      )
      .finally(() => slabs.give(sent.held))
  }

  const process = async ({ held, added }: Batch): Promise<Uint8Array[]> => {
    const { slab, view } = held
    const count = added.length
    await workers.run({ kind: 'hash', slab, count })
    const ids = added.map((_, n) => Uint8Array.prototype.slice.call(view.ids, n * 32, n * 32 + 32))
    let isNew = false
    for (const [n, id] of ids.entries()) {
      const key = keyOf(id)
      view.stored[n] = 0
      if (stored.has(key) || isKnown(id)) skip(view, n)
      else {
        stored.add(key)
        isNew = true
      }
    }
    if (isNew) {
      const wanted = ids.map((_, n) => view.stored[n] === 0)
      await workers.run({ kind: 'encode', slab, count })
      await append(storedChunks(view, ids, wanted))
    }
    return ids
  }

  return {
    add(bytes) {
      if (isZero(bytes)) return Promise.resolve(zeroId)
      const done = Promise.withResolvers<Uint8Array>()
      queue.push({ bytes, done })
      if (!isWaiting) pump()
      return done.promise
    },
    hasStored: (id) => stored.has(keyOf(id)),
  }
}

interface Adding {
  bytes: Uint8Array
  done: PromiseWithResolvers<Uint8Array>
}

function storedChunks(view: SlabView, ids: readonly Uint8Array[], wanted: readonly boolean[]): StoredChunk[] {
  const chunks: StoredChunk[] = []
  let at = 0
  for (const [n, id] of ids.entries()) {
    const bytes = view.lengths[n] as number
    const storedBytes = view.stored[n] as number
    if (wanted[n])
      chunks.push({ id, bytes, stored: view.data.subarray(at, at + storedBytes), isCompressed: storedBytes < bytes })
    at += bytes
  }
  return chunks
}

interface Batch {
  held: HeldSlab
  added: Adding[]
  fits(bytes: Uint8Array): boolean
  put(adding: Adding): void
}

function startBatch(held: HeldSlab): Batch {
  const added: Adding[] = []
  let used = 0
  return {
    held,
    added,
    fits: (bytes) => used + bytes.byteLength <= held.slab.capacity && added.length < slabChunks,
    put(adding) {
      held.view.data.set(adding.bytes, used)
      held.view.lengths[added.length] = adding.bytes.byteLength
      used += adding.bytes.byteLength
      added.push(adding)
    },
  }
}

interface HeldSlab {
  slab: Slab
  view: SlabView
}

/** The memory for all writers of a store. */
export interface Slabs {
  take(bytes: number): HeldSlab | Promise<HeldSlab>
  give(slab: HeldSlab): void
}

export function makeSlabs(count: number): Slabs {
  const free: HeldSlab[] = []
  const waiting: { bytes: number; take: (slab: HeldSlab) => void }[] = []
  let made = 0
  const make = (bytes: number): HeldSlab => {
    const slab = makeSlab(Math.max(bytes, slabBytes))
    return { slab, view: viewSlab(slab) }
  }
  const fitting = (slab: HeldSlab, bytes: number) => (slab.slab.capacity >= bytes ? slab : make(bytes))
  return {
    take(bytes) {
      const slab = free.pop()
      if (slab) return fitting(slab, bytes)
      if (made < count) {
        made++
        return make(bytes)
      }
      return new Promise((take) => waiting.push({ bytes, take }))
    },
    give(slab) {
      const next = waiting.shift()
      const kept = slab.slab.capacity > slabBytes ? make(slabBytes) : slab
      if (next) next.take(fitting(kept, next.bytes))
      else free.push(kept)
    },
  }
}
