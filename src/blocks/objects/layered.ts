import { Fault } from '../../model/fault.ts'
import type { ObjectStore } from '../objects.ts'

/**
 * One store in front of another: reads find what either has, writes go to the first. So a directory whose packs were
 * evicted is whole again together with the bucket behind it.
 */
export function layered(first: ObjectStore, second: ObjectStore): ObjectStore {
  return {
    url: `${first.url} over ${second.url}`,
    async get(key, options) {
      return first.get(key, options).catch((error: unknown) => {
        if (error instanceof Fault && error.code === 'not_found') return second.get(key, options)
        throw error
      })
    },
    tail: async (key, length) => (await first.tail(key, length)) ?? (await second.tail(key, length)),
    size: async (key) => (await first.size(key)) ?? (await second.size(key)),
    put: (key, body, options) => first.put(key, body, options),
    delete: (key) => first.delete(key),
    async *list(prefix) {
      const found = new Map<string, { key: string; size: number; changedAt: number }>()
      for (const store of [second, first]) for await (const each of store.list(prefix)) found.set(each.key, each)
      yield* [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1))
    },
  }
}
