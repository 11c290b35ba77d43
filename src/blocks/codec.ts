import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { hashOf } from './hash.ts'
import type { Place } from './pack.ts'

/**
 * How a chunk is stored: zstd level 1, or as it is where that would not make it shorter. The window is no larger than the
 * chunk, which saves a third of the time; a new context is made for every chunk, since Node gives no way to keep one.
 */
export function encodeChunk(bytes: Uint8Array): { stored: Uint8Array; isCompressed: boolean } {
  const packed = zstdCompressSync(bytes, optionsFor(bytes.byteLength))
  return packed.byteLength < bytes.byteLength
    ? { stored: packed, isCompressed: true }
    : { stored: bytes, isCompressed: false }
}

/** The chunk's bytes, or undefined when they are not what the hash says. The answer may be `stored` itself. */
export function decodeChunk(
  id: Uint8Array,
  stored: Uint8Array,
  place: Pick<Place, 'bytes' | 'isCompressed'>,
): Uint8Array | undefined {
  let bytes = stored
  if (place.isCompressed) {
    try {
      bytes = zstdDecompressSync(stored, { maxOutputLength: place.bytes, chunkSize: Math.max(place.bytes, 64) })
    } catch {
      return undefined
    }
  }
  if (bytes.byteLength !== place.bytes) return undefined
  return hashOf(bytes).equals(id) ? bytes : undefined
}

const known = new Map<number, object>()

function optionsFor(bytes: number): object {
  const windowLog = Math.min(22, Math.max(10, Math.ceil(Math.log2(Math.max(bytes, 2)))))
  let options = known.get(windowLog)
  if (!options) {
    options = {
      chunkSize: 2 ** windowLog + 1024,
      params: { [constants.ZSTD_c_compressionLevel]: 1, [constants.ZSTD_c_windowLog]: windowLog },
    }
    known.set(windowLog, options)
  }
  return options
}
