import type { Job } from '../model/records.ts'
import { whyNowhere } from './nowhere.ts'
import type { Entry, Standing } from './standing.ts'
import type { Usage } from './usage.ts'

/** The sentences of a plan that people read: why something stays undone, and why a copy is stopped. */

export function unplacedProblem(usage: Usage, { name, spec }: Job, unplaced: number): string {
  const copies = `${unplaced} of ${spec.count} ${spec.count === 1 ? 'copy' : 'copies'} unplaced`
  return `no node can take "${name}" (${copies}): ${whyNowhere(usage, spec)}`
}

export function updateProblem(usage: Usage, { name, spec }: Job, waiting: number): string {
  const copies = `${waiting} of ${spec.count} ${spec.count === 1 ? 'copy' : 'copies'}`
  const why = 'keep an older version, as the newest fits nowhere, not even in place of the old'
  return `the update of "${name}" waits (${copies} ${why}): ${whyNowhere(usage, spec)}`
}

/** Empty when no copy failed too often. */
export function exhaustedProblem({ name }: Job, entries: readonly Entry[]): string {
  const exhausted = entries.filter(({ standing }) => standing.kind === 'exhausted')
  const [first] = exhausted
  const { failures = [], failed = 0 } = first?.slot ?? {}
  const last = failures.at(-1)
  if (!first || !last) return ''
  const times = failed === 1 ? 'once' : `${failed} times`
  const others = exhausted.length > 1 ? ` (and ${exhausted.length - 1} more like it)` : ''
  return `copy ${first.index} of "${name}"${others} failed ${times}, at last with "${last.message}", and is not tried again; change the job and apply it`
}

export function stopReason(job: Job, standing: Extract<Standing, { kind: 'leaving' | 'outdated' }>): string {
  if (standing.kind === 'leaving') return standing.reason
  const more = standing.changed.length > 3 ? ` and ${standing.changed.length - 3} more` : ''
  return `version ${job.version} of "${job.name}" replaces it: ${standing.changed.slice(0, 3).join(', ')}${more} changed`
}
