/**
 * The part of an image that lies on this machine, decompressed: a sparse file, and which of its chunks are there. Reads are
 * plain reads of the file once `isLocal` says so; who fills it is elsewhere (image-filler.ts), and may be another thread:
 * the bits are shared memory.
 */
export interface LocalImage {
  readonly fd: number
  /** Bytes of the image; beyond it everything is zeros. */
  readonly size: number
  readonly chunkBytes: number
  /** One bit for each chunk, lowest first. */
  readonly bits: Uint8Array
}

/** Numbers of the first and last chunk of the range that are missing; undefined when all of it is there. */
export function missingIn(
  { bits, chunkBytes, size }: LocalImage,
  offset: number,
  length: number,
): { first: number; last: number } | undefined {
  const end = Math.min(offset + length, size)
  let first = -1
  let last = -1
  for (let chunk = Math.floor(offset / chunkBytes); chunk * chunkBytes < end; chunk += 1) {
    if (hasBit(bits, chunk)) continue
    if (first < 0) first = chunk
    last = chunk
  }
  return first < 0 ? undefined : { first, last }
}

export function hasBit(bits: Uint8Array, index: number): boolean {
  return ((bits[index >> 3] ?? 0) & (1 << (index & 7))) !== 0
}

export function setBit(bits: Uint8Array, index: number): void {
  const at = index >> 3
  bits[at] = (bits[at] ?? 0) | (1 << (index & 7))
}
