import { Fault } from '../../model/fault.ts'
import type { Manifest } from '../manifest.ts'
import { buildKey, packKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import { writeReference } from './builds.ts'

/**
 * Makes a build of packs that somebody has put there: manifest, then reference. Refused when one of them is gone again,
 * which a collection may have done in the meantime; whoever copied them then copies what is missing.
 */
export async function adopt(objects: ObjectStore, manifest: Manifest, reference: string): Promise<void> {
  for (const name of manifest.packs)
    if ((await objects.size(packKey(name))) === undefined)
      throw new Fault('conflict', `pack ${name} of build ${manifest.id} is missing in ${objects.url}`)
  const body = Buffer.from(JSON.stringify(manifest))
  await objects.put(buildKey(manifest.id), body, { size: body.length })
  await writeReference(objects, reference, manifest.id)
}
