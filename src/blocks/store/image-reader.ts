import { Fault } from '../../model/fault.ts'
import type { ImageReader } from '../content.ts'
import { fromHash, isZeroId, zeroId } from '../hash.ts'
import { type Image, pageEntries, zeroHash } from '../manifest.ts'

export const pageBytes = pageEntries * 32

/** Reads of chunks, and perhaps a word about which others are likely to be wanted soon. */
export type ReadChunk = (
  id: Uint8Array,
  options: { signal?: AbortSignal | undefined; near: () => readonly Uint8Array[] },
) => Promise<Buffer>

export function chunkCount(image: Pick<Image, 'size' | 'chunkBytes'>): number {
  return Math.ceil(image.size / image.chunkBytes)
}

/** Bytes of chunk `number`: the last one of an image may be shorter. */
export function chunkLength(image: Pick<Image, 'size' | 'chunkBytes'>, number: number): number {
  return Math.min(image.chunkBytes, image.size - number * image.chunkBytes)
}

/** Stored bytes are not known here, so what is near is bounded by what it would take uncompressed. */
const firstNearBytes = 256 * 1024
const maxNearBytes = 1024 * 1024

/** Reads all map pages of an image, so that every chunk's id is known without waiting. */
export async function openImage(
  image: Image,
  {
    pages,
    chunk,
    prefetch,
    isHere,
  }: {
    /** Map pages by their ids. */
    pages: (ids: readonly Uint8Array[]) => Promise<readonly Buffer[]>
    chunk: ReadChunk
    prefetch: (ids: readonly Uint8Array[], signal?: AbortSignal) => Promise<void>
    isHere: (id: Uint8Array) => boolean
  },
): Promise<ImageReader> {
  const count = chunkCount(image)
  if (image.pages.length !== Math.ceil(count / pageEntries))
    throw new Fault('conflict', `a map is corrupt: it has ${image.pages.length} pages for ${count} chunks`)
  const named = image.pages.filter((hash) => hash !== zeroHash)
  const read = await pages(named.map(fromHash))
  let next = 0
  const maps = image.pages.map((hash) => (hash === zeroHash ? undefined : (read[next++] as Buffer)))
  for (const map of maps)
    if (map && map.length !== pageBytes) throw new Fault('conflict', `a map is corrupt: a page has ${map.length} bytes`)

  const idOf = (number: number): Uint8Array => {
    if (!(number >= 0 && number < count)) throw new RangeError(`chunk ${number} of ${count}`)
    const at = (number % pageEntries) * 32
    return maps[Math.floor(number / pageEntries)]?.subarray(at, at + 32) ?? zeroId
  }
  let zeros: Buffer | undefined
  let expected = -1
  let nearBytes = firstNearBytes

  /** What is ahead, and more of it the longer reads go on in order. */
  const nearTo = (number: number) => (): readonly Uint8Array[] => {
    nearBytes =
      number >= expected - 1 && number <= expected + 8 ? Math.min(maxNearBytes, nearBytes * 2) : firstNearBytes
    const ahead = Math.max(1, Math.floor(nearBytes / image.chunkBytes))
    expected = number + ahead
    const ids: Uint8Array[] = []
    for (let other = number + 1; other < Math.min(count, number + ahead); other++) {
      const id = idOf(other)
      if (!isZeroId(id)) ids.push(id)
    }
    return ids
  }

  return {
    image,
    id: idOf,
    isZero: (number) => isZeroId(idOf(number)),
    isHere() {
      for (let number = 0; number < count; number++) {
        const id = idOf(number)
        if (!isZeroId(id) && !isHere(id)) return false
      }
      return true
    },
    async read(number, { signal } = {}) {
      const id = idOf(number)
      const length = chunkLength(image, number)
      if (isZeroId(id)) {
        zeros ??= Buffer.alloc(image.chunkBytes)
        return zeros.subarray(0, length)
      }
      const bytes = await chunk(id, { signal, near: nearTo(number) })
      if (bytes.length !== length)
        throw new Fault('conflict', `a map is corrupt: chunk ${number} has ${bytes.length} bytes, not ${length}`)
      return bytes
    },
    prefetch: (numbers, { signal } = {}) =>
      prefetch(
        numbers
          .filter((number) => number < count)
          .map(idOf)
          .filter((id) => !isZeroId(id)),
        signal,
      ),
  }
}
