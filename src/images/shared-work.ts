/**
 * Work that several ask for at once and that is done once. Whoever stops waiting leaves the others alone; when nobody
 * waits any more the work itself is aborted.
 */
export class SharedWork<T> {
  readonly #running = new Map<string, Job<T>>()

  async join(key: string, asker: Asker, work: (shared: Asker) => Promise<T>): Promise<T> {
    asker.signal.throwIfAborted()
    const job = this.#running.get(key) ?? this.#begin(key, work)
    job.askers.add(asker)
    const gone = Promise.withResolvers<never>()
    const leave = () => gone.reject(asker.signal.reason)
    asker.signal.addEventListener('abort', leave, { once: true })
    try {
      return await Promise.race([job.result, gone.promise])
    } finally {
      asker.signal.removeEventListener('abort', leave)
      job.askers.delete(asker)
      if (job.askers.size === 0) job.abort.abort(new DOMException('nobody waits for it', 'AbortError'))
    }
  }

  #begin(key: string, work: (shared: Asker) => Promise<T>): Job<T> {
    const askers = new Set<Asker>()
    const abort = new AbortController()
    const progress = (message: string) => {
      for (const asker of askers) asker.progress(message)
    }
    const forget = () => {
      if (this.#running.get(key) === job) this.#running.delete(key)
    }
    const result = work({ signal: abort.signal, progress }).finally(forget)
    result.catch(() => {})
    const job = { askers, abort, result }
    abort.signal.addEventListener('abort', forget, { once: true })
    this.#running.set(key, job)
    return job
  }
}

interface Asker {
  signal: AbortSignal
  progress: (message: string) => void
}

interface Job<T> {
  askers: Set<Asker>
  abort: AbortController
  result: Promise<T>
}
