import type { Manifest } from '../manifest.ts'
import { idsOf, imagesOf, openOf } from './images.ts'
import type { BuildSource } from './source.ts'

/**
 * What a machine needs to start of a build that lies far away, in the order in which it is worth having it together in one
 * pack: chunks of memory and disk that a clone is known to touch, in that order; then, next to the pack's index, since whoever
 * reads that reads them along, the device state and the maps. Nothing for a build that was never tried.
 */
export async function idsWantedFirst(from: BuildSource, manifest: Manifest): Promise<Uint8Array[]> {
  const { snapshot, disk } = manifest
  if (snapshot === null || snapshot.prefetch.length === 0) return []
  const ids: Uint8Array[] = []
  for (const [image, chunks] of [
    [snapshot.memory, snapshot.prefetch],
    [disk, snapshot.prefetchDisk ?? []],
  ] as const) {
    const reader = await openOf(from, manifest, image)
    const count = Math.ceil(image.size / image.chunkBytes)
    for (const number of chunks) if (number < count && !reader.isZero(number)) ids.push(reader.id(number))
  }
  for (const { id } of idsOf(await openOf(from, manifest, snapshot.devices))) ids.push(id)
  for (const [, image] of imagesOf(manifest))
    for (const { id, isPage } of idsOf(await openOf(from, manifest, image))) if (isPage) ids.push(id)
  return ids
}
