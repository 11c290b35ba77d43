import type { Clock } from './clock.ts'

/**
 * Virtual time, for tests and simulation: it stands still until somebody advances it, and then wakes every sleeper in
 * the order of its time, letting what it started come to rest before the next.
 */
export class SteppedClock implements Clock {
  #now: number
  readonly #start: number
  #sequence = 0
  readonly #heap: Sleeper[] = []

  constructor(start = 1_700_000_000_000) {
    this.#start = start
    this.#now = start
  }

  now(): number {
    return Math.floor(this.#now)
  }

  monotonic(): number {
    return this.#now - this.#start
  }

  /** How many wait for time to pass. */
  get sleepers(): number {
    return this.#heap.reduce((count, sleeper) => count + (sleeper.done ? 0 : 1), 0)
  }

  sleep(ms: number, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason)
      const abort = () => {
        sleeper.done = true
        reject(signal?.reason)
      }
      const sleeper: Sleeper = {
        at: this.#now + Math.max(0, ms),
        sequence: this.#sequence++,
        done: false,
        wake: () => {
          signal?.removeEventListener('abort', abort)
          resolve()
        },
      }
      signal?.addEventListener('abort', abort, { once: true })
      this.#push(sleeper)
    })
  }

  /** Lets `ms` pass. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms
    await this.settle()
    for (;;) {
      const due = this.#nextTime()
      if (due === undefined || due > end) break
      this.#now = Math.max(this.#now, due)
      while (this.#nextTime() === due) this.#pop()?.wake()
      await this.settle()
    }
    this.#now = Math.max(this.#now, end)
    await this.settle()
  }

  /** Lets time pass until the condition holds, at most `withinMs`; throws when it did not come to hold. */
  async until(condition: () => boolean, { withinMs = 3_600_000, what = 'the condition' } = {}): Promise<void> {
    const end = this.#now + withinMs
    await this.settle()
    while (!condition()) {
      const due = this.#nextTime()
      if (due === undefined || due > end) {
        // Real files and processes do not follow this clock: give them some real time before giving up.
        for (let tries = 0; tries < 400 && !condition(); tries++) await turn(5)
        if (condition()) return
        throw new Error(`${what} did not come to hold within ${withinMs} ms of virtual time`)
      }
      this.#now = Math.max(this.#now, due)
      while (this.#nextTime() === due) this.#pop()?.wake()
      await this.settle()
    }
  }

  /** Lets everything that needs no time come to rest. */
  async settle(): Promise<void> {
    for (let turns = 0; turns < 4; turns++) await turn(0)
  }

  #nextTime(): number | undefined {
    while (this.#heap[0]?.done) this.#pop()
    return this.#heap[0]?.at
  }

  #push(sleeper: Sleeper): void {
    const heap = this.#heap
    let at = heap.push(sleeper) - 1
    while (at > 0) {
      const up = (at - 1) >> 1
      const parent = heap[up]
      if (!parent || before(parent, sleeper)) break
      heap[at] = parent
      heap[up] = sleeper
      at = up
    }
  }

  #pop(): Sleeper | undefined {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (!top || !last || heap.length === 0) return top
    heap[0] = last
    for (let at = 0; ; ) {
      let child = 2 * at + 1
      const left = heap[child]
      if (!left) break
      const right = heap[child + 1]
      if (right && before(right, left)) child += 1
      const smaller = heap[child]
      if (!smaller || before(last, smaller)) break
      heap[at] = smaller
      heap[child] = last
      at = child
    }
    return top
  }
}

interface Sleeper {
  at: number
  sequence: number
  done: boolean
  wake: () => void
}

function before(one: Sleeper, other: Sleeper): boolean {
  return one.at < other.at || (one.at === other.at && one.sequence < other.sequence)
}

function turn(ms: number): Promise<void> {
  return new Promise((resolve) => (ms > 0 ? setTimeout(resolve, ms) : setImmediate(resolve)))
}
