import { setImmediate } from 'node:timers/promises'

/** Bytes that are hashed before others get their turn: about a millisecond's worth. */
const turnBytes = 512 * 1024

/** For long work on the thread that others wait for: awaited before each piece, it lets them in now and then. */
export function takeTurns(): (bytes: number) => Promise<void> | undefined {
  let done = 0
  return (bytes) => {
    done += bytes
    if (done < turnBytes) return undefined
    done = 0
    return setImmediate()
  }
}
