import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { decodeChunk } from '../codec.ts'
import { keyOf, toHash } from '../hash.ts'
import { packKey } from '../objects/keys.ts'
import { packHead } from '../pack.ts'
import { inLanes } from '../store/chunk-reader.ts'
import { takeTurns } from '../turns.ts'
import { idsOf, imagesOf, openOf } from './images.ts'
import { buildIds, readReferences } from './list.ts'
import { type BuildSource, entriesOf } from './source.ts'

export interface VerifyReport {
  builds: number
  packs: number
  chunks: number
  /** Of chunks, decompressed and hashed. */
  bytes: number
  problems: { build?: BuildId; pack?: string; chunk?: string; message: string }[]
}

/** Reads everything of some builds, or of a whole store, and says what is not as its hash says, or not there. */
export async function verify(
  source: BuildSource,
  {
    builds: chosen,
    signal,
    onProgress,
  }: { builds?: readonly BuildId[]; signal?: AbortSignal; onProgress?: (report: VerifyReport) => void } = {},
): Promise<VerifyReport> {
  const report: VerifyReport = { builds: 0, packs: 0, chunks: 0, bytes: 0, problems: [] }
  const note =
    (where: { build?: BuildId; pack?: string }) =>
    (error: unknown): undefined => {
      if (!(error instanceof Fault) || error.code === 'unavailable' || error.code === 'denied') throw error
      report.problems.push({ ...where, message: sentence(error) })
    }
  const ids = chosen ?? (await Array.fromAsync(buildIds(source.objects)))
  const manifests = []
  for (const id of ids) {
    const manifest = await source.manifest(id).catch(note({ build: id }))
    if (manifest) manifests.push(manifest)
  }
  const names = new Set(manifests.flatMap(({ packs }) => packs))
  if (!chosen) for await (const { key } of source.objects.list('packs/')) names.add(key.slice('packs/'.length))
  const bad = new Set<string>()
  await inLanes([...names], 2, (name) => verifyPack(name))

  for (const manifest of manifests) {
    signal?.throwIfAborted()
    report.builds++
    const among = new Set(manifest.packs)
    for (const [name, image] of imagesOf(manifest)) {
      const reader = await openOf(source, manifest, image).catch(note({ build: manifest.id }))
      if (!reader) continue
      const told = new Set<string>()
      for (const { id } of idsOf(reader)) {
        const key = keyOf(id)
        const what = source.find(id, among) ? (bad.has(key) ? 'corrupt' : undefined) : 'missing'
        if (!what || told.has(key)) continue
        told.add(key)
        const chunk = toHash(id)
        const message = `chunk ${chunk} of the ${name} of build ${manifest.id} is ${what}`
        report.problems.push({ build: manifest.id, chunk, message })
      }
    }
  }
  if (!chosen)
    for (const { name, build } of await readReferences(source.objects, note({})))
      if (!manifests.some(({ id }) => id === build) && !ids.includes(build))
        report.problems.push({ build, message: `reference "${name}" leads to build ${build}, which is missing` })
  return report

  async function verifyPack(name: string): Promise<void> {
    signal?.throwIfAborted()
    report.packs++
    const pack = await source.pack(name).catch(note({ pack: name }))
    if (!pack) {
      if (!report.problems.some((problem) => problem.pack === name))
        report.problems.push({ pack: name, message: `pack ${name} is missing in ${source.objects.url}` })
      return
    }
    const bytes = await source.objects.get(packKey(name))
    if (!bytes.subarray(0, packHead.length).equals(packHead))
      report.problems.push({ pack: name, message: `pack ${name} does not begin like a pack` })
    const mayGoOn = takeTurns()
    for (const { id, key, place } of entriesOf(pack)) {
      await mayGoOn(place.bytes)
      report.chunks++
      report.bytes += place.bytes
      onProgress?.(report)
      if (decodeChunk(id, bytes.subarray(place.offset, place.offset + place.storedBytes), place)) continue
      bad.add(key)
      const chunk = toHash(id)
      report.problems.push({ pack: name, chunk, message: `chunk ${chunk} is corrupt in pack ${name}` })
    }
  }
}
