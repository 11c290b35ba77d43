import type { Clock } from '../../kit/clock.ts'
import { Fault, type FaultCode } from '../../model/fault.ts'

export const meteredVerbs = ['create', 'pause', 'resume', 'fork', 'snapshot', 'build'] as const
export type MeteredVerb = (typeof meteredVerbs)[number]

/** How one thing that was done with a sandbox or a template ended. */
export interface Metered {
  verb: MeteredVerb
  ms: number
  /** Why it failed; absent when it did not. */
  code?: FaultCode
}

/** Times what is done, for whoever counts it. */
export class Meter {
  readonly #clock: Clock
  readonly #listeners = new Set<(done: Metered) => void>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  subscribe(listener: (done: Metered) => void): void {
    this.#listeners.add(listener)
  }

  async time<T>(verb: MeteredVerb, work: () => Promise<T>): Promise<T> {
    const since = this.#clock.monotonic()
    try {
      const result = await work()
      this.#tell({ verb, ms: this.#clock.monotonic() - since })
      return result
    } catch (error) {
      this.#tell({ verb, ms: this.#clock.monotonic() - since, code: Fault.from(error).code })
      throw error
    }
  }

  #tell(done: Metered): void {
    for (const listener of this.#listeners) listener(done)
  }
}
