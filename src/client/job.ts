import type { JobInput } from '../model/job.ts'

/**
 * States a job in a TypeScript or JavaScript file, so that an editor knows what may stand where:
 *
 *   import { job } from 'tutti'
 *   export default job({ name: 'web', tasks: { … } })
 *
 * A file may export several jobs, as an array or under names. Checking is left to whoever reads the file, who knows
 * where things stand in it.
 */
export function job<const J extends JobInput>(input: J): J {
  return input
}

export type { JobInput }
