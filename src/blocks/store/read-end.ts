import { packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { type PackIndex, readPackIndex } from '../pack.ts'

/** The index of most packs is not longer. */
export const indexBytes = 64 * 1024

export interface PackEnd {
  index: PackIndex
  /** What was read, and where in the pack it begins. */
  bytes: Buffer
  start: number
  /** All that was read for it. */
  readBytes: number
}

/** Reads the end of a pack and finds its index in it, mostly with one request; undefined when there is no such pack. */
export async function readPackEnd(objects: ObjectStore, name: string, endBytes: number): Promise<PackEnd | undefined> {
  const tail = await objects.tail(packKey(name), endBytes)
  if (tail === undefined) return undefined
  const { bytes, size } = tail
  const start = size - bytes.length
  let readBytes = bytes.length
  const index = await readPackIndex(name, size, async (offset, length) => {
    if (offset >= start) return bytes.subarray(offset - start, offset - start + length)
    const more = await objects.get(packKey(name), { offset, length })
    readBytes += more.length
    return more
  })
  return { index, bytes, start, readBytes }
}
