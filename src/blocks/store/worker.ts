import { readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import { decodeChunk, encodeChunk } from '../codec.ts'
import { hashOf } from '../hash.ts'
import { isSkipped, type Slab, viewSlab } from './slab.ts'

/** One thread that hashes, compresses, reads and verifies chunks; see `workers.ts` for what it is asked. */
export type Job =
  /** Puts the hash of each chunk of a slab beside it. */
  | { kind: 'hash'; slab: Slab; count: number }
  /** Replaces each chunk of a slab, unless it is to be skipped, by how it is to be stored. */
  | { kind: 'encode'; slab: Slab; count: number }
  | { kind: 'read'; reads: ChunkRead[] }

export interface ChunkRead {
  fd: number
  id: Uint8Array
  offset: number
  storedBytes: number
  bytes: number
  isCompressed: boolean
}

/** The chunks that were read; undefined where the bytes are not what their hash says. */
export type Answer = { number: number; chunks?: (ArrayBuffer | undefined)[]; error?: unknown }

parentPort?.on('message', ({ number, job }: { number: number; job: Job }) => {
  const answer: Answer = { number }
  try {
    if (job.kind === 'hash') hashAll(job)
    else if (job.kind === 'encode') encodeAll(job)
    else answer.chunks = job.reads.map(read)
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

function read({ fd, id, offset, storedBytes, bytes, isCompressed }: ChunkRead): ArrayBuffer | undefined {
  const stored = Buffer.from(new ArrayBuffer(storedBytes))
  for (let at = 0; at < storedBytes; ) {
    const got = readSync(fd, stored, at, storedBytes - at, offset + at)
    if (got === 0) return undefined
    at += got
  }
  const chunk = decodeChunk(id, stored, { bytes, isCompressed })
  if (!chunk) return undefined
  return chunk.byteLength === chunk.buffer.byteLength
    ? (chunk.buffer as ArrayBuffer)
    : (Uint8Array.from(chunk).buffer as ArrayBuffer)
}
