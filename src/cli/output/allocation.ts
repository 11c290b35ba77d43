import type { PublicAllocation } from '../../contract/allocation.ts'
import type { Cell } from './table.ts'

type Shown = Pick<PublicAllocation, 'phase' | 'healthy' | 'desired'>

/** What an allocation is doing, in a word or two. */
export function stateCell({ phase, healthy, desired }: Shown): Cell {
  switch (phase) {
    case 'pending':
    case 'preparing':
      return { text: phase, tone: 'busy' }
    case 'running':
      if (desired === 'stop') return { text: 'stopping', tone: 'busy' }
      return healthy ? { text: 'running', tone: 'good' } : { text: 'running, not healthy', tone: 'busy' }
    case 'complete':
    case 'stopped':
      return { text: phase, tone: 'faint' }
    case 'failed':
    case 'lost':
      return { text: phase, tone: 'bad' }
  }
}
