import { backoff } from '../../kit/backoff.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'

const attempts = 5

/** The same store, with everything tried again for a while when the store cannot be reached. */
export function retrying(objects: ObjectStore, { clock, random }: { clock: Clock; random: Random }): ObjectStore {
  const tryAgain = async <T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await work()
      } catch (error) {
        const mayPass = error instanceof Fault && error.code === 'unavailable'
        if (!mayPass || attempt === attempts || signal?.aborted) throw error
        await clock.sleep(backoff(attempt, { baseMs: 50, maxMs: 2000, random }), { signal })
      }
    }
  }
  return {
    url: objects.url,
    get: (key, options) => tryAgain(() => objects.get(key, options), options?.signal),
    tail: (key, length) => tryAgain(() => objects.tail(key, length)),
    size: (key) => tryAgain(() => objects.size(key)),
    put: (key, body, options) => tryAgain(() => objects.put(key, body, options), options.signal),
    delete: (key) => tryAgain(() => objects.delete(key)),
    async *list(prefix) {
      const all = await tryAgain(() => Array.fromAsync(objects.list(prefix)))
      yield* all
    },
  }
}
