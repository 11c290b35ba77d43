import { Fault, sentence } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import type { Manifest } from '../manifest.ts'
import type { ObjectStore } from '../objects.ts'
import { readManifest, readReference } from '../store/builds.ts'
import { imagesOf } from './images.ts'

export interface ListedBuild {
  id: BuildId
  reason: Manifest['reason']
  createdAt: number
  parent: BuildId | null
  hasMemory: boolean
  /** Bytes of all images as their guest sees them. */
  size: number
  /** Compressed bytes that it added to the store it was made in. */
  addedBytes: number
  references: string[]
}

/** The builds of a store, oldest first, with the names that lead to them; and what there cannot be read. */
export async function listBuilds(objects: ObjectStore): Promise<{ builds: ListedBuild[]; problems: string[] }> {
  const problems: string[] = []
  const note = (error: unknown): undefined => {
    if (!(error instanceof Fault) || error.code !== 'conflict') throw error
    problems.push(sentence(error))
  }
  const references = await readReferences(objects, note)
  const builds: ListedBuild[] = []
  for await (const id of buildIds(objects)) {
    const manifest = await readManifest(objects, id).catch(note)
    if (!manifest) continue
    builds.push({
      id,
      reason: manifest.reason,
      createdAt: manifest.createdAt,
      parent: manifest.parent,
      hasMemory: manifest.snapshot !== null,
      size: imagesOf(manifest).reduce((sum, [, { size }]) => sum + size, 0),
      addedBytes: manifest.addedBytes,
      references: references.filter(({ build }) => build === id).map(({ name }) => name),
    })
  }
  return { builds: builds.sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1)), problems }
}

export async function readReferences(
  objects: ObjectStore,
  onCorrupt: (error: unknown) => undefined,
): Promise<{ name: string; build: BuildId }[]> {
  const references: { name: string; build: BuildId }[] = []
  for await (const { key } of objects.list('refs/')) {
    const name = key.slice('refs/'.length).replace(/\.json$/, '')
    const build = await readReference(objects, name).catch(onCorrupt)
    if (build) references.push({ name, build })
  }
  return references
}

export async function* buildIds(objects: ObjectStore): AsyncIterable<BuildId> {
  for await (const { key } of objects.list('builds/')) {
    const id = BuildId.safeParse(key.slice('builds/'.length).replace(/\.json$/, ''))
    if (id.success) yield id.data
  }
}
