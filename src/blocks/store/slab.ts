/**
 * Memory that the writer's thread and the workers share: chunks one after the other, and beside them their lengths, their
 * hashes and how long they are as stored. So a batch of chunks goes to a worker and back without being copied.
 */
export interface Slab {
  memory: SharedArrayBuffer
  /** Bytes for chunks. */
  capacity: number
}

export const slabBytes = 512 * 1024
/** Chunks in one slab. */
export const slabChunks = 128

export interface SlabView {
  data: Buffer
  lengths: Uint32Array
  /** Bytes as stored: shorter than its length means compressed. */
  stored: Uint32Array
  ids: Buffer
}

export function makeSlab(capacity: number): Slab {
  return { memory: new SharedArrayBuffer(slabChunks * (4 + 4 + 32) + capacity), capacity }
}

export function viewSlab({ memory, capacity }: Slab): SlabView {
  return {
    lengths: new Uint32Array(memory, 0, slabChunks),
    stored: new Uint32Array(memory, slabChunks * 4, slabChunks),
    ids: Buffer.from(memory, slabChunks * 8, slabChunks * 32),
    data: Buffer.from(memory, slabChunks * 40, capacity),
  }
}

/** Marks a chunk that the store has already. */
export function skip(view: SlabView, n: number): void {
  view.stored[n] = skipped
}

export function isSkipped(view: SlabView, n: number): boolean {
  return view.stored[n] === skipped
}

const skipped = 0xffff_ffff
