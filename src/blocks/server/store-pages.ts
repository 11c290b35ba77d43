import { closeSync, openSync, readSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'
import type { BuildWriter, ImageReader } from '../content.ts'
import { memoryChunkBytes } from '../manifest.ts'
import { pageBytes } from '../memory/mapping.ts'
import type { PagesFile } from '../memory/pages-file.ts'
import type { LocalImage } from './local-image.ts'
import { readBase } from './overlay-view.ts'
import { Window } from './window.ts'

const pagesPerChunk = memoryChunkBytes / pageBytes
const windowBytes = 16 * 1024 * 1024

/** A chunk of memory in the making: which of its pages were captured, and where they lie in the file. */
interface ChunkPages {
  number: number
  /** Where in the chunk, and where in the file; both in bytes. */
  parts: { at: number; from: number; length: number }[]
}

/** Stores captured pages as chunks; pages of these chunks that were not captured are the base's. Gives the ids by number. */
export async function storePages(
  writer: BuildWriter,
  options: { pages: PagesFile; size: number; base: ImageReader | undefined; local: LocalImage | undefined },
): Promise<Map<number, Uint8Array>> {
  const { pages, size, base, local } = options
  const ids = new Map<number, Uint8Array>()
  const window = new Window(windowBytes)
  const fd = openSync(pages.path, 'r')
  try {
    for (const { number, parts } of chunksOf(pages)) {
      await window.run(memoryChunkBytes, async () => {
        const bytes = Buffer.allocUnsafe(Math.min(memoryChunkBytes, size - number * memoryChunkBytes))
        const captured = parts.reduce((sum, { length }) => sum + length, 0)
        if (captured < bytes.length) await fillFromBase(bytes, number, base, local)
        for (const { at, from, length } of parts) {
          if (readSync(fd, bytes, at, length, from) !== length)
            throw new Fault('internal', `${pages.path} is shorter than it should be`)
        }
        ids.set(number, await writer.add(bytes))
      })
    }
    await window.settled()
  } finally {
    await window.settled().catch(() => {})
    closeSync(fd)
  }
  return ids
}

async function fillFromBase(
  bytes: Buffer,
  number: number,
  base: ImageReader | undefined,
  local: LocalImage | undefined,
): Promise<void> {
  if (local) readBase(local, number * memoryChunkBytes, bytes)
  else if (base) bytes.set(await base.read(number))
  else bytes.fill(0)
}

export function* chunksOf({ runs }: PagesFile): Generator<ChunkPages> {
  let current: ChunkPages | undefined
  let from = 0
  for (const { first, count } of runs) {
    for (let page = first; page < first + count; ) {
      const number = Math.floor(page / pagesPerChunk)
      const end = Math.min(first + count, (number + 1) * pagesPerChunk)
      const length = (end - page) * pageBytes
      if (current?.number !== number) {
        if (current) yield current
        current = { number, parts: [] }
      }
      current.parts.push({ at: (page % pagesPerChunk) * pageBytes, from, length })
      from += length
      page = end
    }
  }
  if (current) yield current
}
