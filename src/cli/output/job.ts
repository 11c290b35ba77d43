import type { JobState, JobSummary } from '../../contract/job.ts'
import type { Cell } from './table.ts'
import type { Tone } from './text.ts'

const tones: Record<JobState, Tone> = {
  running: 'good',
  starting: 'busy',
  blocked: 'bad',
  complete: 'faint',
  failed: 'bad',
  stopping: 'busy',
  stopped: 'faint',
}

export function jobStateCell({ state }: Pick<JobSummary, 'state'>): Cell {
  return { text: state, tone: tones[state] }
}

/** How many of how many, in the word that fits the type of job. */
export function copiesText({ type, copies }: Pick<JobSummary, 'type' | 'copies'>): string {
  if (copies.wanted === 0 && copies.live === 0) return '-'
  if (type === 'service') return `${copies.healthy}/${copies.wanted} healthy`
  const parts = [`${copies.complete}/${copies.wanted} complete`]
  if (copies.live > 0) parts.push(`${copies.live} running`)
  if (copies.failed > 0) parts.push(`${copies.failed} failed`)
  return parts.join(', ')
}
