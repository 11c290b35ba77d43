import { deadline } from '../kit/clock.ts'
import type { BuildId } from '../model/ids.ts'
import type { Parts } from './parts.ts'

/**
 * Why memory that was still on its way could not be brought. A machine that touches such a part ends by a signal, which
 * tells nobody anything; the block server knows.
 */
export async function memoryFault(parts: Parts, build: BuildId | null): Promise<string | undefined> {
  if (build === null) return undefined
  using patience = deadline(parts.clock, 5000)
  const { memories } = await parts.blocks.ask('list', {}, { signal: patience.signal }).catch(() => ({ memories: [] }))
  return memories.find((memory) => memory.build === build)?.fault ?? undefined
}
