import type { Manifest } from '../blocks/manifest.ts'
import { Fault } from '../model/fault.ts'
import type { BuildScope } from './build-template.ts'

/** The layer of a key, if this store has it whole. */
export async function findLayer({ parts: { content } }: BuildScope, key: string): Promise<Manifest | undefined> {
  const build = await content.reference(layerReference(key))
  if (build === undefined) return undefined
  return content.manifest(build).catch((error: unknown) => {
    if (error instanceof Fault && error.code === 'not_found') return undefined
    throw error
  })
}

export function layerReference(key: string): string {
  return `layer/${key}`
}
