import type { Clock } from './clock.ts'
import type { Wakeup } from './wakeup.ts'

export interface LoopOptions {
  clock: Clock
  wakeup: Wakeup
  /** At least one pass per period, so that a lost ring costs latency and nothing else. */
  everyMs: number
  pass: (signal: AbortSignal) => Promise<void>
  onError: (error: unknown) => void
  signal: AbortSignal
}

/** One pass now, then one per ring and at least one per period; never two at once. A failed pass is reported and tried again. */
export async function loop({ clock, wakeup, everyMs, pass, onError, signal }: LoopOptions): Promise<void> {
  while (!signal.aborted) {
    await pass(signal).catch((error: unknown) => {
      if (!signal.aborted) onError(error)
    })
    if (!signal.aborted) await wakeup.next({ clock, withinMs: everyMs, signal })
  }
}
