import type { Manifest } from '../blocks/manifest.ts'
import { Fault } from '../model/fault.ts'
import type { BuildScope } from './build-template.ts'

/** The layer of a key, if this store has it whole. */
export async function findLayer({ parts: { blocks }, signal }: BuildScope, key: string): Promise<Manifest | undefined> {
  const { build } = await blocks.ask('reference', { name: layerReference(key) }, { signal })
  if (build === null) return undefined
  try {
    return (await blocks.ask('manifest', { build }, { signal })).manifest
  } catch (error) {
    if (error instanceof Fault && error.code === 'not_found') return undefined
    throw error
  }
}

export function layerReference(key: string): string {
  return `layer/${key}`
}
