/**
 * An ordered stream from a pusher to one reader. When more than `limit` items wait, the queue overflows: it drops them
 * all and the reader is thrown `overflow`, because a gap must never pass unseen.
 */
export class Queue<T> implements AsyncIterable<T> {
  readonly #limit: number
  #items: T[] = []
  #ended = false
  #error: unknown
  #wake = Promise.withResolvers<void>()

  constructor({ limit = Number.POSITIVE_INFINITY }: { limit?: number } = {}) {
    this.#limit = limit
  }

  get waiting(): number {
    return this.#items.length
  }

  push(item: T): void {
    if (this.#ended) return
    this.#items.push(item)
    if (this.#items.length > this.#limit) {
      this.#items = []
      this.end(new Error('the reader fell too far behind'))
      return
    }
    this.#wake.resolve()
  }

  /** What waits is still read; then the reader ends, or is thrown `error`. */
  end(error?: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#error = error
    this.#wake.resolve()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    try {
      for (;;) {
        const items = this.#items
        this.#items = []
        yield* items
        if (this.#items.length > 0) continue
        if (this.#ended) {
          if (this.#error !== undefined) throw this.#error
          return
        }
        await this.#wake.promise
        this.#wake = Promise.withResolvers()
      }
    } finally {
      this.#ended = true
      this.#items = []
    }
  }
}
