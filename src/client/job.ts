import type { JobInput } from '../model/job.ts'

/**
 * States a job in a TypeScript or JavaScript file, so that an editor knows what may stand where:
 *
 *   import { job } from 'tutti'
 *   export const web = job({ name: 'web', tasks: { … } })
 *
 * A file may export several jobs, under names or as a list. Checking is left to whoever reads the file; for that the
 * line of each call is kept.
 */
export function job<const J extends JobInput>(input: J): J {
  const caller = new Error().stack?.split('\n')[2]
  const line = /:(\d+):\d+\)?$/.exec(caller ?? '')?.[1]
  if (line !== undefined) places.set(input, { line: Number(line) })
  return input
}

const places = new WeakMap<object, { line: number }>()

/** Where `job` was called with this very object. */
export function placeOf(input: object): { line: number } | undefined {
  return places.get(input)
}

export type { JobInput }
