import { randomFillSync } from 'node:crypto'
import type { Random } from './random.ts'

/** Bytes drawn ahead: one call to the system serves many ids. */
const pool = Buffer.alloc(4096)
let used = pool.length

/** The machine's randomness, good enough for secrets; no byte is given twice. Chosen in main/ only. */
export const systemRandom: Random = {
  bytes: (count) => {
    if (count > pool.length / 4) return randomFillSync(Buffer.alloc(count))
    if (used + count > pool.length) {
      randomFillSync(pool)
      used = 0
    }
    const given = Buffer.from(pool.subarray(used, used + count))
    pool.fill(0, used, used + count)
    used += count
    return given
  },
  fraction: () => Math.random(),
}
