/** Lets work begin only while what is under way stays within a limit, so that a producer does not run ahead of its consumer. */
export class Window {
  readonly #limit: number
  #used = 0
  readonly #working = new Set<Promise<void>>()
  #failure: { error: unknown } | undefined

  constructor(limit: number) {
    this.#limit = limit
  }

  /** Resolves when the work has begun; `settled` says how it ended. */
  async run(size: number, work: () => Promise<void>): Promise<void> {
    while (this.#used > 0 && this.#used + size > this.#limit) await Promise.race(this.#working)
    if (this.#failure) throw this.#failure.error
    this.#used += size
    const working = work()
      .catch((error: unknown) => {
        this.#failure ??= { error }
      })
      .finally(() => {
        this.#used -= size
        this.#working.delete(working)
      })
    this.#working.add(working)
  }

  async settled(): Promise<void> {
    await Promise.all(this.#working)
    if (this.#failure) throw this.#failure.error
  }
}
