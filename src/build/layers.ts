import type { Manifest } from '../blocks/manifest.ts'
import { Fault } from '../model/fault.ts'
import type { BuildParts } from './parts.ts'

interface LayerScope {
  parts: Pick<BuildParts, 'blocks'>
  signal: AbortSignal
}

/** The layer of a key, if this store has it whole. To find it is to use it, and its name says when that was last. */
export async function findLayer({ parts: { blocks }, signal }: LayerScope, key: string): Promise<Manifest | undefined> {
  const name = layerReference(key)
  const { build } = await blocks.ask('reference', { name }, { signal })
  if (build === null) return undefined
  try {
    const { manifest } = await blocks.ask('manifest', { build }, { signal })
    await blocks.ask('setReference', { name, build }, { signal })
    return manifest
  } catch (error) {
    if (error instanceof Fault && error.code === 'not_found') return undefined
    throw error
  }
}

export function layerReference(key: string): string {
  return `layer/${key}`
}
