import { createHash } from 'node:crypto'

/** Randomness, handed in. */
export interface Random {
  bytes(count: number): Uint8Array
  /** At least 0, below 1. */
  fraction(): number
}

/** The same bytes for the same seed, for tests and simulation. Not for secrets. */
export function seededRandom(seed: string): Random {
  let counter = 0
  const bytes = (count: number): Uint8Array => {
    const out = Buffer.alloc(count)
    for (let at = 0; at < count; at += 32) {
      createHash('sha256').update(`${seed}/${counter++}`).digest().copy(out, at)
    }
    return out
  }
  return { bytes, fraction: () => Buffer.from(bytes(4)).readUInt32BE() / 2 ** 32 }
}
