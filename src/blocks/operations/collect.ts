import type { Clock } from '../../kit/clock.ts'
import type { BuildId } from '../../model/ids.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey, referenceKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { readManifest } from '../store/builds.ts'
import { readCondemned, writeCondemned } from '../store/condemned.ts'
import { buildIds, readReferences } from './list.ts'
import { mark } from './mark.ts'

export interface CollectReport {
  isDryRun: boolean
  references: number
  kept: { builds: number; packs: number; bytes: number }
  /** Unreachable, but not for long enough yet: a later collection removes them. */
  waiting: { builds: BuildId[]; packs: string[]; bytes: number }
  removed: { builds: BuildId[]; packs: string[]; bytes: number }
  /** Names of layers: those that stay, and those that no build has used for so long that they went. */
  layers: { kept: number; removed: string[] }
  /** Whatever kept it from being sure, and so from removing packs. */
  problems: string[]
}

/** Longer than the longest build. */
export const defaultGraceMs = 24 * 60 * 60 * 1000
/** A layer that no build of a template has used for so long loses its name. */
export const defaultLayerAgeMs = 30 * 24 * 60 * 60 * 1000

/**
 * Removes what no reference leads to: manifests first, then the packs that no manifest names any more. Nothing is removed
 * that was not unreachable in two collections at least `graceMs` apart. When a manifest that matters cannot be read, no
 * pack is removed, since nobody knows which ones it needs.
 */
export async function collect(
  objects: ObjectStore,
  { clock, graceMs = defaultGraceMs, layerAgeMs = defaultLayerAgeMs, dryRun = false }: CollectOptions,
): Promise<CollectReport> {
  const now = clock.now()
  const before = await readCondemned(objects)
  const layers = await sortLayers(objects, now - layerAgeMs)
  if (!dryRun) for (const name of layers.removed) await objects.delete(referenceKey(name))
  const marked = await mark(objects, new Set(layers.removed))
  const packs = await Array.fromAsync(objects.list('packs/'))
  const condemned = new Map<string, number>()
  const isDue = (key: string, changedAt: number): boolean => {
    const since = Math.max(before.get(key) ?? now, changedAt)
    condemned.set(key, before.get(key) ?? now)
    return before.has(key) && now - since >= graceMs
  }
  const report: CollectReport = {
    isDryRun: dryRun,
    references: marked.references.length,
    kept: { builds: 0, packs: 0, bytes: 0 },
    waiting: { builds: [], packs: [], bytes: 0 },
    removed: { builds: [], packs: [], bytes: 0 },
    layers: { kept: layers.kept, removed: layers.removed },
    problems: marked.problems,
  }
  for (const { id, changedAt } of marked.builds) {
    if (marked.reachable.has(id)) report.kept.builds++
    else if (isDue(buildKey(id), changedAt)) report.removed.builds.push(id)
    else report.waiting.builds.push(id)
  }
  const dueBuilds = new Set(report.removed.builds)
  const reachablePacks = packsOf(marked.manifests, (id) => marked.reachable.has(id))
  const namedPacks = packsOf(marked.manifests, (id) => !dueBuilds.has(id))
  const duePacks: { key: string; size: number }[] = []
  for (const { key, size, changedAt } of packs) {
    const name = key.slice('packs/'.length)
    if (reachablePacks.has(name)) {
      report.kept.packs++
      report.kept.bytes += size
    } else if (isDue(key, changedAt) && !namedPacks.has(name) && marked.problems.length === 0)
      duePacks.push({ key, size })
    else {
      report.waiting.packs.push(name)
      report.waiting.bytes += size
    }
  }
  if (!dryRun) {
    await writeCondemned(objects, condemned)
    report.removed.builds = await removeBuilds(objects, report.removed.builds)
  }
  // Somebody may have published since the first look.
  const still = dryRun ? namedPacks : await packsNamedNow(objects)
  for (const { key, size } of duePacks) {
    const name = key.slice('packs/'.length)
    if (still?.has(name) !== false) continue
    if (!dryRun) await objects.delete(key)
    condemned.delete(key)
    report.removed.packs.push(name)
    report.removed.bytes += size
  }
  for (const id of report.removed.builds) condemned.delete(buildKey(id))
  if (!dryRun) await writeCondemned(objects, condemned)
  return report
}

export interface CollectOptions {
  clock: Clock
  graceMs?: number | undefined
  layerAgeMs?: number | undefined
  dryRun?: boolean | undefined
}

/** Names of layers by when a build last made or used them: each use writes the name anew. */
async function sortLayers(objects: ObjectStore, before: number): Promise<CollectReport['layers']> {
  const layers: CollectReport['layers'] = { kept: 0, removed: [] }
  for await (const { key, changedAt } of objects.list('refs/layer/')) {
    if (changedAt <= before) layers.removed.push(key.slice('refs/'.length).replace(/\.json$/, ''))
    else layers.kept += 1
  }
  return layers
}

/** Removes manifests, and puts one back that was given a name at the same moment. */
async function removeBuilds(objects: ObjectStore, ids: readonly BuildId[]): Promise<BuildId[]> {
  const removed: BuildId[] = []
  const bodies = new Map<BuildId, Buffer>()
  for (const id of ids) {
    bodies.set(id, await objects.get(buildKey(id)))
    await objects.delete(buildKey(id))
  }
  const named = new Set((await readReferences(objects, () => undefined)).map(({ build }) => build))
  for (const [id, body] of bodies) {
    if (named.has(id)) await objects.put(buildKey(id), body, { size: body.length })
    else removed.push(id)
  }
  return removed
}

/** Undefined when a manifest cannot be read. */
async function packsNamedNow(objects: ObjectStore): Promise<Set<string> | undefined> {
  const names = new Set<string>()
  for await (const id of buildIds(objects)) {
    const manifest = await readManifest(objects, id).catch(() => null)
    if (manifest === null) return undefined
    for (const name of manifest?.packs ?? []) names.add(name)
  }
  return names
}

function packsOf(manifests: ReadonlyMap<BuildId, Manifest>, accepts: (id: BuildId) => boolean): Set<string> {
  const names = new Set<string>()
  for (const [id, manifest] of manifests) if (accepts(id)) for (const name of manifest.packs) names.add(name)
  return names
}
