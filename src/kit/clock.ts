/** Time, handed in: nothing else may read a clock or set a timer, so that the whole system can run in simulated time. */
export interface Clock {
  /** Ms since the epoch, a whole number. May jump. */
  now(): number
  /** Ms since some start; never goes back. */
  monotonic(): number
  /** Resolves after `ms`; rejects with the signal's reason when aborted first. */
  sleep(ms: number, options?: { signal?: AbortSignal | undefined }): Promise<void>
}

/** An AbortSignal that fires after `ms` of the given clock, or with `parent`. Dispose it to let go of the timer. */
export function deadline(clock: Clock, ms: number, parent?: AbortSignal): { signal: AbortSignal } & Disposable {
  const expired = new AbortController()
  const done = new AbortController()
  clock.sleep(ms, { signal: done.signal }).then(
    () => expired.abort(new DOMException(`nothing came back within ${ms} ms`, 'TimeoutError')),
    () => {},
  )
  return {
    signal: parent ? AbortSignal.any([expired.signal, parent]) : expired.signal,
    [Symbol.dispose]: () => done.abort(),
  }
}
