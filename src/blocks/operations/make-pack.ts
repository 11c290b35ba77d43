import { entryBytes, maxPackBytes, type PackIndex, type Place, packHead, sealPack, writeEntry } from '../pack.ts'
import type { BuildSource } from './source.ts'

/** A chunk, and where it lies. */
export interface PlacedChunk {
  id: Uint8Array
  pack: PackIndex
  place: Place
}

/** Bytes that a chunk takes in a pack. */
export function bytesInPack({ storedBytes }: Place): number {
  return storedBytes + entryBytes
}

/** Chunks in the order given, in as many lists as packs are needed for them. */
export function splitIntoPacks<T extends PlacedChunk>(chunks: Iterable<T>): T[][] {
  const parts: T[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const chunk of chunks) {
    const more = bytesInPack(chunk.place)
    if (bytes + more > maxPackBytes - 1024) {
      parts.push([])
      bytes = 0
    }
    parts.at(-1)?.push(chunk)
    bytes += more
  }
  return parts
}

/** A pack of these chunks, each verified; it is in memory whole. */
export async function makePack(
  from: BuildSource,
  part: readonly PlacedChunk[],
): Promise<{ name: string; bytes: Buffer }> {
  const entries = Buffer.alloc(part.length * entryBytes)
  const pieces: Buffer[] = [packHead]
  let offset = packHead.length
  for (const [n, { id, pack, place }] of part.entries()) {
    const { stored } = await from.read(pack, id, place)
    writeEntry(entries, n * entryBytes, id, { ...place, offset })
    pieces.push(stored)
    offset += stored.length
  }
  const { name, trailer } = sealPack(entries, offset)
  return { name, bytes: Buffer.concat([...pieces, trailer]) }
}
