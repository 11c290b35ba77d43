import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { decodeChunk } from '../codec.ts'
import { keyOf, toHash } from '../hash.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey, packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { corruptPack, type PackIndex, packHead } from '../pack.ts'
import { readManifest, writeReference } from '../store/builds.ts'
import { inLanes } from '../store/chunk-reader.ts'
import { condemnedPacks, readCondemned } from '../store/condemned.ts'
import { lookUpBytes, takeTurns } from '../turns.ts'
import { idsOf, type OpenImages, openImages } from './images.ts'
import { bytesInPack, makePack, type PlacedChunk, splitIntoPacks } from './make-pack.ts'
import { type BuildSource, entriesOf, readBuilds } from './source.ts'
import { idsWantedFirst } from './wanted-first.ts'

export interface CopyReport {
  /** Chunks and map pages that the build consists of. */
  chunks: number
  /** Of them, those that were there already. */
  presentChunks: number
  /** Their bytes as they are stored. */
  presentBytes: number
  copiedPacks: number
  /** Packs that were made: of what is wanted first, or since the others held mostly what is not needed, or is there already. */
  madePacks: number
  copiedBytes: number
}

export interface CopyOptions {
  signal?: AbortSignal
  /** The name that the build gets there; nothing that has no name is kept for long. */
  reference?: string
  onProgress?: (bytes: number) => void
}

/** Packs under way at the same time; each is in memory whole. */
const lanes = 3

/**
 * Copies a build to another store: only chunks that are not there, verified on the way, in the order packs, manifest,
 * reference. When it breaks off, the next copy goes on where this one was, since packs are there whole or not at all.
 */
export async function copyBuild(
  from: BuildSource,
  to: ObjectStore,
  id: BuildId,
  { signal, reference, onProgress }: CopyOptions = {},
): Promise<CopyReport> {
  const manifest = await from.manifest(id)
  const images = await openImages(from, manifest)
  const needed = await neededBy(from, manifest, images)
  const report: CopyReport = {
    chunks: needed.size,
    presentChunks: 0,
    presentBytes: 0,
    copiedPacks: 0,
    madePacks: 0,
    copiedBytes: 0,
  }
  const allBytes = storedBytes(needed)
  const packs = await findPresent(needed, manifest, to)
  report.presentChunks = report.chunks - needed.size
  report.presentBytes = allBytes - storedBytes(needed)
  const put = async (name: string, bytes: Buffer): Promise<void> => {
    await to.put(packKey(name), bytes, { size: bytes.length, ...(signal ? { signal } : {}) })
    packs.add(name)
    report.copiedBytes += bytes.length
    onProgress?.(report.copiedBytes)
  }
  const first = takeFirst(needed, idsWantedFirst(manifest, images))
  const { whole, parts } = plan(needed, new Set(first.map(({ pack }) => pack)))
  const makeAndPut = async (part: readonly PlacedChunk[]): Promise<string> => {
    signal?.throwIfAborted()
    const { name, bytes } = await makePack(from, part)
    await put(name, bytes)
    report.madePacks++
    return name
  }
  const firstPacks: string[] = []
  for (const part of splitIntoPacks(first)) firstPacks.push(await makeAndPut(part))
  await inLanes(whole, lanes, async (pack) => {
    signal?.throwIfAborted()
    await put(pack.name, await readWholePack(from, pack))
    report.copiedPacks++
  })
  for (const part of parts) await makeAndPut(part)
  signal?.throwIfAborted()
  const body = Buffer.from(
    JSON.stringify({ ...manifest, packs: [...new Set([...firstPacks, ...packs])] } satisfies Manifest),
  )
  await to.put(buildKey(id), body, { size: body.length })
  if (reference) await writeReference(to, reference, id)
  return report
}

/** Takes out of `needed` what is wanted first, in its order. */
function takeFirst(needed: Map<string, PlacedChunk>, ids: Iterable<Uint8Array>): PlacedChunk[] {
  const taken: PlacedChunk[] = []
  for (const id of ids) {
    const key = keyOf(id)
    const found = needed.get(key)
    if (found && needed.delete(key)) taken.push(found)
  }
  return taken
}

function storedBytes(needed: ReadonlyMap<string, PlacedChunk>): number {
  let sum = 0
  for (const { place } of needed.values()) sum += place.storedBytes
  return sum
}

async function neededBy(from: BuildSource, manifest: Manifest, images: OpenImages): Promise<Map<string, PlacedChunk>> {
  const needed = new Map<string, PlacedChunk>()
  const among = new Set(manifest.packs)
  const mayGoOn = takeTurns()
  for (const reader of Object.values(images)) {
    for (const { id } of idsOf(reader)) {
      await mayGoOn(lookUpBytes)
      const key = keyOf(id)
      if (needed.has(key)) continue
      const found = from.find(id, among) ?? from.find(id)
      if (!found)
        throw new Fault('conflict', `chunk ${toHash(id)} of build ${manifest.id} is missing in ${from.objects.url}`)
      needed.set(key, { id: Uint8Array.from(id), ...found })
    }
  }
  return needed
}

/** Takes out of `needed` what the other store has, and gives the packs that have it, in the order in which they were named. */
async function findPresent(
  needed: Map<string, PlacedChunk>,
  manifest: Manifest,
  to: ObjectStore,
): Promise<Set<string>> {
  const used = new Set<string>()
  const asked: string[] = []
  const there = readBuilds(to)
  const condemned = condemnedPacks(await readCondemned(to))
  const take = async (names: readonly string[]): Promise<void> => {
    asked.push(...names)
    await inLanes(
      names.filter((name) => !condemned.has(name) && !used.has(name)),
      8,
      async (name) => {
        if (needed.size === 0) return
        // A pack that cannot be read has nothing; a whole one of its name replaces it.
        const pack = await there.pack(name).catch((error: Fault) => {
          if (error.code !== 'conflict') throw error
        })
        if (!pack) return
        for (const { key } of entriesOf(pack)) if (needed.delete(key)) used.add(name)
      },
    )
  }
  await take((await readManifest(to, manifest.id).catch(() => undefined))?.packs ?? [])
  await take(manifest.packs)
  if (needed.size > 0) {
    const others: string[] = []
    for await (const { key } of to.list('packs/')) others.push(key.slice('packs/'.length))
    await take(others.filter((name) => /^[0-9a-f]{64}$/.test(name)))
  }
  return new Set(asked.filter((name) => used.has(name)))
}

/**
 * Packs of which most is needed are copied as they are; what is needed of the others is put together in new ones, and what
 * is left of those that something was taken out of.
 */
function plan(
  needed: ReadonlyMap<string, PlacedChunk>,
  broken: ReadonlySet<PackIndex>,
): { whole: PackIndex[]; parts: PlacedChunk[][] } {
  const byPack = new Map<PackIndex, PlacedChunk[]>()
  for (const each of needed.values()) {
    const list = byPack.get(each.pack)
    if (list) list.push(each)
    else byPack.set(each.pack, [each])
  }
  const whole: PackIndex[] = []
  const rest: PlacedChunk[] = []
  for (const [pack, list] of [...byPack].sort(([a], [b]) => (a.name < b.name ? -1 : 1))) {
    const isMostly = list.reduce((sum, { place }) => sum + bytesInPack(place), 0) * 2 >= pack.size
    if (isMostly && !broken.has(pack)) whole.push(pack)
    else for (const each of list.sort((a, b) => a.place.offset - b.place.offset)) rest.push(each)
  }
  return { whole, parts: splitIntoPacks(rest) }
}

/** All of a pack, every chunk verified; read once more when it came corrupt. */
async function readWholePack(from: BuildSource, pack: PackIndex): Promise<Buffer> {
  const bytes = await from.objects.get(packKey(pack.name))
  const bad = await firstCorrupt(pack, bytes)
  if (bad === undefined) return bytes
  const again = await from.objects.get(packKey(pack.name))
  const stillBad = await firstCorrupt(pack, again)
  if (stillBad === undefined) return again
  throw corruptPack(pack.name, `${stillBad} in ${from.objects.url}`)
}

/** What is wrong with a pack's bytes, or undefined. */
async function firstCorrupt(pack: PackIndex, bytes: Buffer): Promise<string | undefined> {
  if (bytes.length !== pack.size) return `it has ${bytes.length} bytes, not ${pack.size}`
  if (!bytes.subarray(0, packHead.length).equals(packHead)) return 'it does not begin like a pack'
  const mayGoOn = takeTurns()
  for (const { id, place } of entriesOf(pack)) {
    await mayGoOn(place.bytes)
    if (!decodeChunk(id, bytes.subarray(place.offset, place.offset + place.storedBytes), place))
      return `chunk ${toHash(id)} is not what its hash says`
  }
  return undefined
}
