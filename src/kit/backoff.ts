import type { Random } from './random.ts'

/** Ms to wait before try number `attempt` (from 1): doubling from `baseMs` up to `maxMs`, the upper half of it random. */
export function backoff(
  attempt: number,
  { baseMs, maxMs, random }: { baseMs: number; maxMs: number; random: Random },
): number {
  const full = Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, 30))
  return full / 2 + (full / 2) * random.fraction()
}
