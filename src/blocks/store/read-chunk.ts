import { readSync } from 'node:fs'
import { decodeChunk } from '../codec.ts'

/** Where a chunk is to be read from, and what it must be. */
export interface ChunkRead {
  fd: number
  id: Uint8Array
  offset: number
  storedBytes: number
  bytes: number
  isCompressed: boolean
}

/** The chunk, verified, in memory of its own; undefined when the bytes are not what the hash says. */
export function readChunk({ fd, id, offset, storedBytes, bytes, isCompressed }: ChunkRead): ArrayBuffer | undefined {
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
