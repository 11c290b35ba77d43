import type { Clock } from '../../kit/clock.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey, packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import type { PackIndex } from '../pack.ts'
import { readManifest } from '../store/builds.ts'
import { condemnedPacks, readCondemned, writeCondemned } from '../store/condemned.ts'
import { lookUpBytes, takeTurns } from '../turns.ts'
import { idsOf, imagesOf, openOf } from './images.ts'
import { bytesInPack, makePack, type PlacedChunk, splitIntoPacks } from './make-pack.ts'
import { type Marked, mark } from './mark.ts'
import { type BuildSource, entriesOf, readBuilds } from './source.ts'

export interface RepackReport {
  /** Packs that hold so much garbage that what is needed of them is put into others. */
  packs: string[]
  /** Their bytes; free when they have been of no use for the grace period. */
  bytes: number
  /** Packs that take their place, none in a dry run; and their bytes, in a dry run about. */
  made: string[]
  madeBytes: number
  /** Builds that name the new packs now. */
  builds: BuildId[]
  /** Bytes of all packs that builds with a name need, and of them those that no such build needs: before, and after. */
  keptBytes: number
  unusedBytes: number
  unusedBytesAfter: number
  /** Whatever kept it from rewriting anything. */
  problems: string[]
}

export interface RepackOptions {
  clock: Clock
  /** Of the bytes that are kept, the share that may be garbage: 0.05 is a twentieth. */
  maxUnused?: number | undefined
  dryRun?: boolean | undefined
}

export const defaultMaxUnused = 0.05

/**
 * Puts what is needed of packs that are mostly garbage into new packs, those with most garbage first, until no more than
 * `maxUnused` of what is kept is garbage. In this order, so that every build can be read wherever it is cut off: the new
 * packs, the manifests that name them, the list of what is of no use. The old packs stay for the grace period, and go
 * with a collection; whoever holds an older manifest reads them meanwhile, and then asks for the manifest anew.
 *
 * Maps name chunks, not packs, and a build is known by its id: nothing but the list of packs in its manifest changes.
 */
export async function repack(
  objects: ObjectStore,
  { clock, maxUnused = defaultMaxUnused, dryRun = false }: RepackOptions,
): Promise<RepackReport> {
  const report: RepackReport = {
    ...{ packs: [], bytes: 0, made: [], madeBytes: 0, builds: [] },
    ...{ keptBytes: 0, unusedBytes: 0, unusedBytesAfter: 0, problems: [] },
  }
  const marked = await mark(objects, new Set())
  // Nobody knows what a manifest needs that cannot be read.
  if (marked.problems.length > 0) return { ...report, problems: marked.problems }
  try {
    await rewrite(objects, marked, report, { maxUnused, dryRun })
  } catch (error) {
    if (!(error instanceof Fault) || error.code !== 'conflict') throw error
    report.problems.push(sentence(error))
  }
  if (!dryRun && report.packs.length > 0) await condemn(objects, report.packs, clock.now())
  return report
}

async function rewrite(
  objects: ObjectStore,
  marked: Marked,
  report: RepackReport,
  { maxUnused, dryRun }: { maxUnused: number; dryRun: boolean },
): Promise<void> {
  const from = readBuilds(objects)
  const kept = [...marked.manifests.values()].filter(({ id }) => marked.reachable.has(id))
  const packs = await liveIn(from, kept)
  for (const { pack, liveBytes } of packs.values()) {
    report.keptBytes += pack.size
    report.unusedBytes += pack.size - liveBytes
  }
  // A pack cannot go before all that name it, so one that an unreachable build names is left for later.
  const elsewhere = new Set(
    [...marked.manifests.values()].filter((each) => !kept.includes(each)).flatMap((m) => m.packs),
  )
  const chosen = choose(
    [...packs.values()].filter(({ pack }) => !elsewhere.has(pack.name)),
    report,
    maxUnused,
  )
  const replacements = new Map<string, string[]>(chosen.map(({ pack }) => [pack.name, []]))
  const parts = splitIntoPacks(chosen.flatMap(liveChunks))
  report.bytes = chosen.reduce((sum, { pack }) => sum + pack.size, 0)
  if (dryRun) {
    report.packs = chosen.map(({ pack }) => pack.name)
    report.madeBytes = chosen.reduce((sum, { liveBytes }) => sum + liveBytes, 0)
    report.builds = kept.filter((each) => each.packs.some((name) => replacements.has(name))).map(({ id }) => id)
    return
  }
  for (const part of parts) {
    const { name, bytes } = await makePack(from, part)
    await objects.put(packKey(name), bytes, { size: bytes.length })
    for (const pack of new Set(part.map((chunk) => chunk.pack.name))) replacements.get(pack)?.push(name)
    report.made.push(name)
    report.madeBytes += bytes.length
  }
  const left = new Set<string>()
  for (const before of kept) {
    if (!before.packs.some((name) => replacements.has(name))) continue
    if (await renamePacks(objects, before, replacements)) report.builds.push(before.id)
    else for (const name of before.packs) left.add(name)
  }
  report.packs = [...replacements.keys()].filter((name) => !left.has(name))
}

interface LivePack {
  pack: PackIndex
  /** Offsets of chunks that are needed. */
  live: Set<number>
  liveBytes: number
}

/** What the builds need of each pack that they name. */
async function liveIn(from: BuildSource, builds: readonly Manifest[]): Promise<Map<string, LivePack>> {
  const packs = new Map<string, LivePack>()
  const mayGoOn = takeTurns()
  for (const manifest of builds) {
    for (const name of manifest.packs) {
      const pack = packs.has(name) ? undefined : await from.pack(name)
      if (pack) packs.set(name, { pack, live: new Set(), liveBytes: overheadBytes })
    }
    const among = new Set(manifest.packs)
    for (const [, image] of imagesOf(manifest)) {
      for (const { id } of idsOf(await openOf(from, manifest, image))) {
        await mayGoOn(lookUpBytes)
        const found = from.find(id, among)
        if (!found) throw new Fault('conflict', `build ${manifest.id} in ${from.objects.url} is not whole`)
        const entry = packs.get(found.pack.name)
        if (!entry || entry.live.has(found.place.offset)) continue
        entry.live.add(found.place.offset)
        entry.liveBytes += bytesInPack(found.place)
      }
    }
  }
  return packs
}

/** Head and footer of a pack. */
const overheadBytes = 72

/** Those with the greatest share of garbage first, until there is little enough of it. */
function choose(packs: readonly LivePack[], report: RepackReport, maxUnused: number): LivePack[] {
  const shareOf = ({ pack, liveBytes }: LivePack) => 1 - liveBytes / pack.size
  const chosen: LivePack[] = []
  let { keptBytes, unusedBytes } = report
  for (const each of packs.filter(hasGarbage).sort((a, b) => shareOf(b) - shareOf(a))) {
    if (unusedBytes <= maxUnused * keptBytes) break
    const garbage = each.pack.size - each.liveBytes
    chosen.push(each)
    unusedBytes -= garbage
    keptBytes -= garbage
  }
  report.unusedBytesAfter = unusedBytes
  return chosen
}

function hasGarbage({ pack, live }: LivePack): boolean {
  return live.size < pack.count
}

function liveChunks({ pack, live }: LivePack): PlacedChunk[] {
  return [...entriesOf(pack)]
    .filter(({ place }) => live.has(place.offset))
    .map(({ id, place }) => ({ id, pack, place }))
}

/** False when the manifest is not the one that was looked at: then it may need anything of the old packs. */
async function renamePacks(
  objects: ObjectStore,
  before: Manifest,
  replacements: ReadonlyMap<string, readonly string[]>,
): Promise<boolean> {
  const now = await readManifest(objects, before.id)
  // Who has removed it meanwhile needs nothing of it.
  if (!now) return true
  if (now.packs.join() !== before.packs.join()) return false
  const packs = [...new Set(now.packs.flatMap((name) => replacements.get(name) ?? [name]))]
  const body = Buffer.from(JSON.stringify({ ...now, packs } satisfies Manifest))
  await objects.put(buildKey(now.id), body, { size: body.length })
  return true
}

/** The time of the old packs begins now; what was listed before keeps its time. */
async function condemn(objects: ObjectStore, packs: readonly string[], now: number): Promise<void> {
  const condemned = await readCondemned(objects)
  const listed = condemnedPacks(condemned)
  for (const name of packs) if (!listed.has(name)) condemned.set(packKey(name), now)
  await writeCondemned(objects, condemned)
}
