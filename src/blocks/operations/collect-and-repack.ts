import type { ObjectStore } from '../objects.ts'
import { type CollectOptions, type CollectReport, collect } from './collect.ts'
import { type RepackReport, repack } from './repack.ts'

export interface CleanReport extends CollectReport {
  /** Absent unless it was asked for. */
  repacked?: RepackReport | undefined
}

export interface CleanOptions extends CollectOptions {
  /** Rewrites packs until no more than this share of what is kept is garbage; without it, packs stay as they are. */
  maxUnused?: number | undefined
}

/**
 * Collects, and then repacks if that is asked for: in this order, since a disk that is full has no room for new packs
 * until others went. `alone` runs the collection when nobody makes a build; repacking disturbs nobody who does.
 */
export async function collectAndRepack(
  objects: ObjectStore,
  { maxUnused, ...options }: CleanOptions,
  alone: (work: () => Promise<CollectReport>) => Promise<CollectReport> = (work) => work(),
): Promise<CleanReport> {
  const report = await alone(() => collect(objects, options))
  if (maxUnused === undefined) return report
  const { clock, dryRun } = options
  return { ...report, repacked: await repack(objects, { clock, maxUnused, dryRun }) }
}
