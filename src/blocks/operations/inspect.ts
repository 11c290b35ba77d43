import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ImageReader } from '../content.ts'
import { keyOf } from '../hash.ts'
import type { Manifest } from '../manifest.ts'
import { chunkCount, chunkLength } from '../store/image-reader.ts'
import { type ImageName, idsOf, imagesOf, openOf } from './images.ts'
import type { BuildSource } from './source.ts'

/** Chunks in a row that are all zeros, or all not. */
export interface Run {
  kind: 'zero' | 'data'
  first: number
  count: number
}

export interface InspectedImage {
  name: ImageName
  size: number
  chunkBytes: number
  chunks: number
  zeroChunks: number
  /** Different chunks: the same bytes in two places count once. */
  distinctChunks: number
  /** Of the distinct chunks: bytes, and bytes as they are stored. */
  dataBytes: number
  storedBytes: number
  /** How many times smaller they are stored. */
  ratio: number
  runs: Run[]
  /** What the same image of the parent has too; null where the parent is not there, or has no such image. */
  sharedWithParent: { chunks: number; bytes: number } | null
  /** In which packs the distinct chunks lie. */
  packs: { name: string; chunks: number; storedBytes: number }[]
}

export interface InspectedBuild {
  manifest: Manifest
  images: InspectedImage[]
}

/** What a build consists of: its maps as runs, how much is stored where, and what it has in common with its parent. */
export async function inspect(source: BuildSource, id: BuildId): Promise<InspectedBuild> {
  const manifest = await source.manifest(id)
  const parent = manifest.parent && (await source.manifest(manifest.parent).catch(absent))
  const images: InspectedImage[] = []
  for (const [name, image] of imagesOf(manifest)) {
    const reader = await openOf(source, manifest, image)
    const other = parent && imagesOf(parent).find(([of]) => of === name)
    const parentReader = parent && other ? await openOf(source, parent, other[1]).catch(absent) : undefined
    images.push(inspectImage(source, name, reader, parentReader))
  }
  return { manifest, images }
}

function inspectImage(
  source: BuildSource,
  name: ImageName,
  reader: ImageReader,
  parent: ImageReader | undefined,
): InspectedImage {
  const { image } = reader
  const chunks = chunkCount(image)
  const parents = new Set<string>()
  if (parent) for (const { id, isPage } of idsOf(parent)) if (!isPage) parents.add(keyOf(id))
  const seen = new Set<string>()
  const packs = new Map<string, { name: string; chunks: number; storedBytes: number }>()
  const runs: Run[] = []
  const found = { zeroChunks: 0, dataBytes: 0, storedBytes: 0 }
  const shared = { chunks: 0, bytes: 0 }
  for (let number = 0; number < chunks; number++) {
    const isZero = reader.isZero(number)
    const run = runs.at(-1)
    if (run && (run.kind === 'zero') === isZero) run.count++
    else runs.push({ kind: isZero ? 'zero' : 'data', first: number, count: 1 })
    if (isZero) {
      found.zeroChunks++
      continue
    }
    const id = reader.id(number)
    const key = keyOf(id)
    if (parents.has(key)) {
      shared.chunks++
      shared.bytes += chunkLength(image, number)
    }
    if (seen.has(key)) continue
    seen.add(key)
    const place = source.find(id)
    if (!place) continue
    found.dataBytes += place.place.bytes
    found.storedBytes += place.place.storedBytes
    const pack = packs.get(place.pack.name) ?? { name: place.pack.name, chunks: 0, storedBytes: 0 }
    pack.chunks++
    pack.storedBytes += place.place.storedBytes
    packs.set(pack.name, pack)
  }
  return {
    name,
    size: image.size,
    chunkBytes: image.chunkBytes,
    chunks,
    ...found,
    distinctChunks: seen.size,
    ratio: found.storedBytes === 0 ? 1 : found.dataBytes / found.storedBytes,
    runs,
    sharedWithParent: parent ? shared : null,
    packs: [...packs.values()],
  }
}

/** Bytes of an image; cut at its end. */
export async function readRange(
  source: Pick<BuildSource, 'manifest' | 'open'>,
  id: BuildId,
  { image: name, offset, length }: { image: ImageName; offset: number; length: number },
): Promise<Buffer> {
  const manifest = await source.manifest(id)
  const image = imagesOf(manifest).find(([of]) => of === name)?.[1]
  if (!image) throw new Fault('not_found', `build ${id} has no ${name}: it is a build of a disk only`)
  const reader = await openOf(source, manifest, image)
  const end = Math.min(image.size, offset + length)
  const parts: Buffer[] = []
  for (let at = offset; at < end; ) {
    const number = Math.floor(at / image.chunkBytes)
    const from = at - number * image.chunkBytes
    const part = (await reader.read(number)).subarray(from, from + end - at)
    parts.push(part)
    at += part.length
  }
  return Buffer.concat(parts)
}

function absent(error: unknown): undefined {
  if (error instanceof Fault && (error.code === 'not_found' || error.code === 'conflict')) return undefined
  throw error
}
