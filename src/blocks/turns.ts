import { setImmediate } from 'node:timers/promises'

/** Bytes that are decompressed and hashed before others get their turn: a millisecond's worth, or a little more. */
const turnBytes = 256 * 1024
/** What looking up a chunk counts for, beside hashing one. */
export const lookUpBytes = 256

/**
 * For long work on the thread that others wait for: when it gives a promise, that is awaited before the
 * next piece, and they are let in. */
export function takeTurns(): (bytes: number) => Promise<void> | undefined {
  let done = 0
  return (bytes) => {
    done += bytes
    if (done < turnBytes) return undefined
    done = 0
    return setImmediate()
  }
}
