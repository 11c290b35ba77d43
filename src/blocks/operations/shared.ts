import type { BuildId } from '../../model/ids.ts'
import { keyOf } from '../hash.ts'
import { chunkCount, chunkLength } from '../store/image-reader.ts'
import { imagesOf, openOf } from './images.ts'
import type { BuildSource } from './source.ts'

/** Different chunks, and their bytes before compression. */
export interface ChunkSum {
  chunks: number
  bytes: number
}

/** What two builds have in common wherever it lies in them, and what only one of them has; zeros count for nothing. */
export async function sharedChunks(
  one: { source: Pick<BuildSource, 'manifest' | 'open'>; id: BuildId },
  other: { source: Pick<BuildSource, 'manifest' | 'open'>; id: BuildId },
): Promise<{ both: ChunkSum; first: ChunkSum; second: ChunkSum }> {
  const [before, after] = [await chunksOf(one), await chunksOf(other)]
  const sums = { both: none(), first: none(), second: none() }
  for (const [key, bytes] of before) add(after.has(key) ? sums.both : sums.first, bytes)
  for (const [key, bytes] of after) if (!before.has(key)) add(sums.second, bytes)
  return sums
}

async function chunksOf({
  source,
  id,
}: {
  source: Pick<BuildSource, 'manifest' | 'open'>
  id: BuildId
}): Promise<Map<string, number>> {
  const manifest = await source.manifest(id)
  const found = new Map<string, number>()
  for (const [, image] of imagesOf(manifest)) {
    const reader = await openOf(source, manifest, image)
    const count = chunkCount(image)
    for (let number = 0; number < count; number++)
      if (!reader.isZero(number)) found.set(keyOf(reader.id(number)), chunkLength(image, number))
  }
  return found
}

function none(): ChunkSum {
  return { chunks: 0, bytes: 0 }
}

function add(sum: ChunkSum, bytes: number): void {
  sum.chunks++
  sum.bytes += bytes
}
