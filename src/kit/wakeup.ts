import type { Clock } from './clock.ts'

/** A bell that remembers one ring. Ring it as often as you like: the listener looks at the world, not at the ring. */
export class Wakeup {
  #isRung = false
  #answer: (() => void) | undefined

  ring(): void {
    this.#isRung = true
    this.#answer?.()
  }

  /** Returns at the next ring, after `withinMs`, or on abort; never throws. A ring that waits already costs no timer. */
  async next({ clock, withinMs, signal }: { clock: Clock; withinMs: number; signal: AbortSignal }): Promise<void> {
    if (!this.#isRung && !signal.aborted) {
      const done = new AbortController()
      const rung = new Promise<void>((resolve) => {
        this.#answer = resolve
      })
      const quiet = clock.sleep(withinMs, { signal: AbortSignal.any([signal, done.signal]) }).catch(() => {})
      await Promise.race([rung, quiet])
      this.#answer = undefined
      done.abort()
    }
    this.#isRung = false
  }
}
