import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { inLanes } from '../store/chunk-reader.ts'
import { chunkCount, chunkLength } from '../store/image-reader.ts'
import { type ImageName, imagesOf, openOf } from './images.ts'
import type { BuildSource } from './source.ts'

export interface ReadFigures {
  pattern: 'sequential' | 'random' | 'parallel'
  reads: number
  bytes: number
  /** Of all of them together. */
  ms: number
  /** Of one read, in ms. */
  p50: number
  p90: number
  p99: number
}

/** Readers at the same time in the parallel pattern. */
const readers = 10

/** How fast an image of a build can be read: in order, anywhere, and anywhere by several at once. Zeros are left out. */
export async function benchBuild(
  source: Pick<BuildSource, 'manifest' | 'open'>,
  id: BuildId,
  {
    image: name = 'disk',
    reads = 500,
    clock,
    random,
    signal,
  }: { image?: ImageName; reads?: number; clock: Clock; random: Random; signal?: AbortSignal },
): Promise<ReadFigures[]> {
  const manifest = await source.manifest(id)
  const image = imagesOf(manifest).find(([of]) => of === name)?.[1]
  if (!image) throw new Fault('not_found', `build ${id} has no ${name}: it is a build of a disk only`)
  const figures: ReadFigures[] = []
  for (const pattern of ['sequential', 'random', 'parallel'] as const) {
    const reader = await openOf(source, manifest, image)
    const numbers = Array.from({ length: chunkCount(image) }, (_, n) => n).filter((n) => !reader.isZero(n))
    if (numbers.length === 0) throw new Fault('conflict', `the ${name} of build ${id} is all zeros`)
    const chosen = Array.from({ length: reads }, (_, n) =>
      pattern === 'sequential' ? n % numbers.length : Math.floor(random.fraction() * numbers.length),
    ).map((n) => numbers[n] as number)
    const times: number[] = []
    let bytes = 0
    const began = clock.monotonic()
    await inLanes(chosen, pattern === 'parallel' ? readers : 1, async (number) => {
      const start = clock.monotonic()
      await reader.read(number, signal ? { signal } : {})
      times.push(clock.monotonic() - start)
      bytes += chunkLength(image, number)
    })
    const ms = clock.monotonic() - began
    times.sort((a, b) => a - b)
    const at = (fraction: number) => times[Math.min(times.length - 1, Math.floor(times.length * fraction))] ?? 0
    figures.push({ pattern, reads, bytes, ms, p50: at(0.5), p90: at(0.9), p99: at(0.99) })
  }
  return figures
}
