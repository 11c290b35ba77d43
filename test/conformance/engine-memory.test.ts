import { MemoryEngine, MemoryMedium } from '../../src/store/memory/memory-engine.ts'
import { type EnginePlace, engineConformance } from './engine.ts'

engineConformance('memory', async () => memoryPlace(new MemoryMedium()))

function memoryPlace(medium: MemoryMedium): EnginePlace {
  return {
    open: ({ keptEntries }) => new MemoryEngine({ medium, keptEntries }),
    crashed: async () => memoryPlace(structuredCopy(medium)),
    [Symbol.asyncDispose]: async () => {},
  }
}

function structuredCopy(medium: MemoryMedium): MemoryMedium {
  const copy = new MemoryMedium()
  for (const [key, row] of medium.rows) copy.rows.set(key, { ...row })
  copy.log = [...medium.log]
  copy.index = medium.index
  return copy
}
