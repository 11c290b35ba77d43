import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { readManifest } from '../store/builds.ts'
import { buildIds, readReferences } from './list.ts'

/** What is in a store, and which of it names lead to. */
export interface Marked {
  references: { name: string; build: BuildId }[]
  builds: { id: BuildId; changedAt: number }[]
  manifests: Map<BuildId, Manifest>
  reachable: Set<BuildId>
  problems: string[]
}

/** `without`: names that count no more. */
export async function mark(objects: ObjectStore, without: ReadonlySet<string>): Promise<Marked> {
  const problems: string[] = []
  const note = (error: unknown): undefined => {
    if (!(error instanceof Fault) || error.code !== 'conflict') throw error
    problems.push(sentence(error))
  }
  // Manifests before references: a build that is named in between is known as reachable.
  const manifests = new Map<BuildId, Manifest>()
  const builds: Marked['builds'] = []
  const times = new Map<string, number>()
  for await (const { key, changedAt } of objects.list('builds/')) times.set(key, changedAt)
  for await (const id of buildIds(objects)) {
    const manifest = await readManifest(objects, id).catch(note)
    builds.push({ id, changedAt: times.get(buildKey(id)) ?? 0 })
    if (manifest) manifests.set(id, manifest)
  }
  const references = (await readReferences(objects, note)).filter(({ name }) => !without.has(name))
  const reachable = new Set(references.map(({ build }) => build))
  for (const { name, build } of references)
    if (!builds.some(({ id }) => id === build) && (await objects.size(buildKey(build))) === undefined)
      problems.push(`reference "${name}" leads to build ${build}, which is missing in ${objects.url}`)
  return { references, builds, manifests, reachable, problems }
}
