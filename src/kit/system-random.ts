import { randomBytes } from 'node:crypto'
import type { Random } from './random.ts'

/** The machine's randomness, good enough for secrets. Chosen in main/ only. */
export const systemRandom: Random = { bytes: (count) => randomBytes(count), fraction: () => Math.random() }
