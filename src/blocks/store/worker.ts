import { parentPort } from 'node:worker_threads'
import { encodeChunk } from '../codec.ts'
import { hashOf } from '../hash.ts'
import { type ChunkRead, readChunk } from './read-chunk.ts'
import { isSkipped, type Slab, viewSlab } from './slab.ts'

/** One thread that hashes, compresses, reads and verifies chunks; see `workers.ts` for what it is asked. */
export type Job =
  /** Puts the hash of each chunk of a slab beside it. */
  | { kind: 'hash'; slab: Slab; count: number }
  /** Replaces each chunk of a slab, unless it is to be skipped, by how it is to be stored. */
  | { kind: 'encode'; slab: Slab; count: number }
  | { kind: 'read'; reads: ChunkRead[] }

/** The chunks that were read; undefined where the bytes are not what their hash says. */
export type Answer = { number: number; chunks?: (ArrayBuffer | undefined)[]; error?: unknown }

parentPort?.on('message', ({ number, job }: { number: number; job: Job }) => {
  const answer: Answer = { number }
  try {
    if (job.kind === 'hash') hashAll(job)
    else if (job.kind === 'encode') encodeAll(job)
    else answer.chunks = job.reads.map(readChunk)
  } catch (error) {
    answer.error = error
  }
  parentPort?.postMessage(answer, answer.chunks?.filter((chunk) => chunk !== undefined) ?? [])
})

function hashAll({ slab, count }: { slab: Slab; count: number }): void {
  const view = viewSlab(slab)
  for (let n = 0, at = 0; n < count; n++) {
    const length = view.lengths[n] as number
    hashOf(view.data.subarray(at, at + length)).copy(view.ids, n * 32)
    at += length
  }
}

function encodeAll({ slab, count }: { slab: Slab; count: number }): void {
  const view = viewSlab(slab)
  for (let n = 0, at = 0; n < count; n++) {
    const length = view.lengths[n] as number
    if (!isSkipped(view, n)) {
      const { stored, isCompressed } = encodeChunk(view.data.subarray(at, at + length))
      if (isCompressed) view.data.set(stored, at)
      view.stored[n] = stored.byteLength
    }
    at += length
  }
}
