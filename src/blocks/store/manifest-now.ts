import type { BuildId } from '../../model/ids.ts'
import type { Manifest } from '../manifest.ts'
import type { ObjectStore } from '../objects.ts'
import { readManifest } from './builds.ts'

/**
 * The manifest of a build as the object store has it now, for whoever has an older one that names packs which are gone:
 * they may have been put together in others. Of a build that was never brought there, that of its nearest ancestor: its
 * other chunks are here.
 */
export async function manifestNow(
  build: BuildId,
  { here, there }: { here: ObjectStore; there: ObjectStore },
): Promise<Manifest | undefined> {
  for (let id: BuildId | null | undefined = build; id; id = (await readManifest(here, id))?.parent) {
    const found = await readManifest(there, id)
    if (found) return found
  }
  return undefined
}
