import type { Clock } from '../../kit/clock.ts'
import { Queue } from '../../kit/queue.ts'
import type { Denial } from '../network.ts'

/**
 * What was denied to one sandbox, for people to read. A sandbox may try as often as it likes: at most `burst` are written
 * down at once and `perSecond` on the way, then one says how many were left out; and what nobody fetches is not piled up.
 */
export interface Denials extends AsyncIterable<Denial> {
  note(denied: { destination: string; reason: string }): void
  end(): void
}

const burst = 50
const perSecond = 10
const mostWaiting = 500

export function openDenials(clock: Clock): Denials {
  const queue = new Queue<Denial>()
  let tokens = burst
  let refilledAt = clock.monotonic()
  let leftOut = 0
  return {
    note: ({ destination, reason }) => {
      const now = clock.monotonic()
      tokens = Math.min(burst, tokens + ((now - refilledAt) / 1000) * perSecond)
      refilledAt = now
      if (tokens < 1 || queue.waiting >= mostWaiting) {
        leftOut += 1
        return
      }
      tokens -= 1
      const others = leftOut === 1 ? '1 more denial before this one is' : `${leftOut} more denials before this one are`
      const more = leftOut > 0 ? ` (${others} not listed)` : ''
      leftOut = 0
      queue.push({ at: clock.now(), destination: destination.slice(0, 300), reason: `${reason}${more}` })
    },
    end: () => queue.end(),
    [Symbol.asyncIterator]: () => queue[Symbol.asyncIterator](),
  }
}
