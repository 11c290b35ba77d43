import type { BuildId } from '../../model/ids.ts'
import type { ImageReader } from '../content.ts'
import { chunkCount, chunkLength } from '../store/image-reader.ts'
import { type ImageName, imagesOf, openOf } from './images.ts'
import type { BuildSource } from './source.ts'

/** What became of a chunk from one build to another. */
export type Change = 'same' | 'changed' | 'added' | 'cleared' | 'zero'

export interface DiffedImage {
  name: ImageName
  chunkBytes: number
  /** Chunks and bytes of each kind; `cleared` had data and is zeros now, `added` the other way round. */
  chunks: Record<Change, number>
  bytes: Record<Change, number>
  /** Lines of `gridColumns` characters; each stands for `chunksPerCell` chunks and shows the most telling of them. */
  grid: string[]
  chunksPerCell: number
}

export const gridColumns = 128
const gridLines = 32
export const gridLetters: Record<Change, string> = { changed: '#', added: '+', cleared: '-', same: '=', zero: '.' }
/** Of several chunks in one cell, the first of these is shown. */
const telling: readonly Change[] = ['changed', 'added', 'cleared', 'same', 'zero']

/** What two builds share and where they differ, image by image; images that only one of them has are left out. */
export async function diff(
  from: { source: BuildSource; id: BuildId },
  to: { source: BuildSource; id: BuildId },
): Promise<DiffedImage[]> {
  const [before, after] = [await from.source.manifest(from.id), await to.source.manifest(to.id)]
  const images: DiffedImage[] = []
  for (const [name, image] of imagesOf(after)) {
    const old = imagesOf(before).find(([of]) => of === name)?.[1]
    if (!old || old.chunkBytes !== image.chunkBytes) continue
    images.push(diffImage(name, await openOf(from.source, before, old), await openOf(to.source, after, image)))
  }
  return images
}

function diffImage(name: ImageName, before: ImageReader, after: ImageReader): DiffedImage {
  const counts = [chunkCount(before.image), chunkCount(after.image)] as const
  const chunks = none()
  const bytes = none()
  const total = Math.max(...counts)
  const chunksPerCell = Math.max(1, Math.ceil(total / (gridColumns * gridLines)))
  const cells: Change[] = []
  for (let number = 0; number < total; number++) {
    const change = changeOf(
      number < counts[0] ? before.id(number) : undefined,
      number < counts[1] ? after.id(number) : undefined,
      number < counts[0] && before.isZero(number),
      number < counts[1] && after.isZero(number),
    )
    chunks[change]++
    bytes[change] += chunkLength(number < counts[1] ? after.image : before.image, number)
    const cell = Math.floor(number / chunksPerCell)
    const shown = cells[cell]
    if (!shown || telling.indexOf(change) < telling.indexOf(shown)) cells[cell] = change
  }
  const text = cells.map((change) => gridLetters[change]).join('')
  const grid = text.match(new RegExp(`.{1,${gridColumns}}`, 'g')) ?? []
  return { name, chunkBytes: after.image.chunkBytes, chunks, bytes, grid: [...grid], chunksPerCell }
}

/** A chunk beyond the end of an image counts as one of zeros. */
function changeOf(
  before: Uint8Array | undefined,
  after: Uint8Array | undefined,
  wasZero: boolean,
  isZero: boolean,
): Change {
  const hadData = before !== undefined && !wasZero
  const hasData = after !== undefined && !isZero
  if (!hadData) return hasData ? 'added' : 'zero'
  if (!hasData) return 'cleared'
  return Buffer.compare(before, after) === 0 ? 'same' : 'changed'
}

function none(): Record<Change, number> {
  return { same: 0, changed: 0, added: 0, cleared: 0, zero: 0 }
}
