import type { ImageReader } from '../content.ts'
import { fromHash, isZeroId } from '../hash.ts'
import { type Image, type Manifest, zeroHash } from '../manifest.ts'
import { chunkCount } from '../store/image-reader.ts'
import type { BuildSource } from './source.ts'

export type ImageName = 'disk' | 'memory' | 'devices'

/** The images of a build by name. */
export function imagesOf(manifest: Manifest): [ImageName, Image][] {
  const images: [ImageName, Image][] = [['disk', manifest.disk]]
  if (manifest.snapshot) images.push(['memory', manifest.snapshot.memory], ['devices', manifest.snapshot.devices])
  return images
}

export function openOf(source: Pick<BuildSource, 'open'>, manifest: Manifest, image: Image): Promise<ImageReader> {
  return source.open(image, { packs: manifest.packs, build: manifest.id })
}

/** All images of a build, each with its map read. */
export type OpenImages = { disk: ImageReader } & Partial<Record<ImageName, ImageReader>>

export async function openImages(source: Pick<BuildSource, 'open'>, manifest: Manifest): Promise<OpenImages> {
  const opened = await Promise.all(
    imagesOf(manifest).map(async ([name, image]) => [name, await openOf(source, manifest, image)] as const),
  )
  return Object.fromEntries(opened) as OpenImages
}

/** Every id that an image needs: of its map pages, and of its chunks that are not zero. */
export function* idsOf(reader: ImageReader): Iterable<{ id: Uint8Array; isPage: boolean }> {
  for (const hash of reader.image.pages) if (hash !== zeroHash) yield { id: fromHash(hash), isPage: true }
  const count = chunkCount(reader.image)
  for (let number = 0; number < count; number++) {
    const id = reader.id(number)
    if (!isZeroId(id)) yield { id, isPage: false }
  }
}
