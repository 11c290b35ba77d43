import { z } from 'zod'
import { Fault, sentence } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import { Manifest } from '../manifest.ts'
import { buildKey, referenceKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'

/** Manifests and references as they lie in an object store. */
export const Reference = z.strictObject({ build: BuildId })

/** A longer manifest is refused: memory of 16 TiB would not need as much. */
const maxManifestBytes = 256 * 1024 * 1024

export async function readManifest(objects: ObjectStore, id: BuildId): Promise<Manifest | undefined> {
  // One question instead of two: a bucket may be far away.
  const bytes = await objects.get(buildKey(id), { length: maxManifestBytes + 1 }).catch(absent)
  if (!bytes) return undefined
  if (bytes.length > maxManifestBytes) throw corrupt(objects, id, `it has more than ${maxManifestBytes} bytes`)
  return parseManifest(objects, id, bytes)
}

export function parseManifest(objects: ObjectStore, id: BuildId, bytes: Buffer): Manifest {
  let manifest: Manifest
  try {
    manifest = Manifest.parse(JSON.parse(bytes.toString()))
  } catch (error) {
    throw corrupt(
      objects,
      id,
      error instanceof z.ZodError ? z.prettifyError(error).split('\n').join(' ') : sentence(error),
    )
  }
  if (manifest.id !== id) throw corrupt(objects, id, `it calls itself ${manifest.id}`)
  return manifest
}

export async function readReference(objects: ObjectStore, name: string): Promise<BuildId | undefined> {
  const bytes = await objects.get(referenceKey(name)).catch(absent)
  if (!bytes) return undefined
  try {
    return Reference.parse(JSON.parse(bytes.toString())).build
  } catch (error) {
    throw new Fault('conflict', `reference "${name}" in ${objects.url} is corrupt`, { cause: error })
  }
}

export async function writeReference(objects: ObjectStore, name: string, build: BuildId): Promise<void> {
  const body = Buffer.from(JSON.stringify(Reference.parse({ build })))
  await objects.put(referenceKey(name), body, { size: body.length })
}

export function noSuchBuild(id: BuildId, where: string): Fault {
  return new Fault('not_found', `there is no build ${id} in ${where}`)
}

function corrupt(objects: ObjectStore, id: BuildId, reason: string): Fault {
  return new Fault('conflict', `the manifest of build ${id} in ${objects.url} is corrupt: ${reason}`)
}

function absent(error: unknown): undefined {
  if (error instanceof Fault && error.code === 'not_found') return undefined
  throw error
}
