/** The chunks that were read last, decompressed, up to a number of bytes; the one not read for longest goes first. */
export interface ChunkCache {
  readonly bytes: number
  get(key: string): Buffer | undefined
  put(key: string, bytes: Buffer): void
}

export function makeChunkCache(maxBytes: number): ChunkCache {
  const chunks = new Map<string, Buffer>()
  let bytes = 0
  return {
    get bytes() {
      return bytes
    },
    get(key) {
      const found = chunks.get(key)
      if (found) {
        chunks.delete(key)
        chunks.set(key, found)
      }
      return found
    },
    put(key, chunk) {
      if (chunk.length > maxBytes || chunks.has(key)) return
      chunks.set(key, chunk)
      bytes += chunk.length
      for (const [oldest, { length }] of chunks) {
        if (bytes <= maxBytes) break
        chunks.delete(oldest)
        bytes -= length
      }
    },
  }
}
