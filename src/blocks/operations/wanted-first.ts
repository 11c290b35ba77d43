import type { Manifest } from '../manifest.ts'
import { chunkCount } from '../store/image-reader.ts'
import { idsOf, type OpenImages } from './images.ts'

/**
 * What a machine needs to start of a build that lies far away, in the order in which it is worth having it together in one
 * pack: chunks of memory and disk that a clone is known to touch, in that order; then, next to the pack's index, since whoever
 * reads that reads them along, the device state and the maps. Nothing for a build that was never tried.
 */
export function* idsWantedFirst({ snapshot }: Manifest, images: OpenImages): Iterable<Uint8Array> {
  const { disk, memory, devices } = images
  if (snapshot === null || memory === undefined || devices === undefined || snapshot.prefetch.length === 0) return
  for (const [reader, chunks] of [
    [memory, snapshot.prefetch],
    [disk, snapshot.prefetchDisk ?? []],
  ] as const) {
    const count = chunkCount(reader.image)
    for (const number of chunks) if (number < count && !reader.isZero(number)) yield reader.id(number)
  }
  for (const { id } of idsOf(devices)) yield id
  for (const reader of [disk, memory]) for (const { id, isPage } of idsOf(reader)) if (isPage) yield id
}
