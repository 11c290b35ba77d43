import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from './clock.ts'

/** The machine's clock. Chosen in main/ only. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: async (ms, { signal } = {}) => {
    await sleep(Math.min(ms, 2 ** 31 - 1), undefined, signal ? { signal } : {}).catch((error: unknown) => {
      throw signal?.aborted ? signal.reason : error
    })
  },
}
