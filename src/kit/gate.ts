/**
 * Lets so many in at a time, in order of arrival, and so many wait; whoever comes beyond that is told at once instead of
 * waiting for an answer that would come too late.
 */
export class Gate {
  readonly #places: number
  readonly #mostWaiting: number
  readonly #waiting: { enter: () => void }[] = []
  #inside = 0

  constructor({ places, mostWaiting }: { places: number; mostWaiting: number }) {
    this.#places = places
    this.#mostWaiting = mostWaiting
  }

  get inside(): number {
    return this.#inside
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** Undefined when too many wait already. Disposing what is returned lets the next one in. */
  async enter({ signal }: { signal: AbortSignal }): Promise<Disposable | undefined> {
    signal.throwIfAborted()
    if (this.#inside < this.#places) {
      this.#inside += 1
      return this.#pass()
    }
    if (this.#waiting.length >= this.#mostWaiting) return undefined
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const waiter = { enter: resolve }
    const leave = () => {
      const at = this.#waiting.indexOf(waiter)
      if (at >= 0) this.#waiting.splice(at, 1)
      reject(signal.reason)
    }
    this.#waiting.push(waiter)
    signal.addEventListener('abort', leave, { once: true })
    try {
      await promise
    } finally {
      signal.removeEventListener('abort', leave)
    }
    return this.#pass()
  }

  #pass(): Disposable {
    let left = false
    return {
      [Symbol.dispose]: () => {
        if (left) return
        left = true
        const next = this.#waiting.shift()
        // The place goes to the next one without ever being free.
        if (next) next.enter()
        else this.#inside -= 1
      },
    }
  }
}
