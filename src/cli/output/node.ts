import type { PublicNode } from '../../contract/node.ts'
import type { Cell } from './table.ts'

/** What a node is, for somebody who wonders whether work goes there. */
export function nodeStateCell({ phase, eligible, drain }: Pick<PublicNode, 'phase' | 'eligible' | 'drain'>): Cell {
  const notes = [phase, ...(drain ? ['draining'] : eligible ? [] : ['closed'])]
  const tone = phase === 'lost' ? 'bad' : phase === 'ready' && notes.length === 1 ? 'good' : 'busy'
  return { text: notes.join(', '), tone }
}

export function percent(part: number, whole: number): string {
  return whole > 0 ? `${Math.round((100 * part) / whole)}%` : '-'
}
