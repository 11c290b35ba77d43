import type { Clock } from './clock.ts'

/** A bell that remembers one ring. Ring it as often as you like: the listener looks at the world, not at the ring. */
export class Wakeup {
  #rung = Promise.withResolvers<void>()

  ring(): void {
    this.#rung.resolve()
  }

  /** Returns at the next ring, after `withinMs`, or on abort; never throws. */
  async next({ clock, withinMs, signal }: { clock: Clock; withinMs: number; signal: AbortSignal }): Promise<void> {
    const done = new AbortController()
    const quiet = clock.sleep(withinMs, { signal: AbortSignal.any([signal, done.signal]) }).catch(() => {})
    await Promise.race([this.#rung.promise, quiet])
    done.abort()
    this.#rung = Promise.withResolvers()
  }
}
