import type { CounterAsk, Room } from '../room.ts'
import type { RoomRule } from './rule.ts'

/** Named things that a node has a number of, such as `tart-vms`. */
export const counters: RoomRule = {
  name: 'counters',
  passes: (room, ask) => {
    for (const counter of ask.counters) if (counter.count > free(room, counter)) return false
    return true
  },
  refusal: (room, ask) => {
    const short = ask.counters.find((counter) => counter.count > free(room, counter)) ?? { name: '', count: 0 }
    return {
      words: [`lacks ${short.name}`, `lack ${short.name}`],
      short: { needs: short.count, free: Math.max(0, free(room, short)), format: String },
      help: `add a node with ${short.count} free ${short.name}`,
    }
  },
}

function free(room: Room, { name }: CounterAsk): number {
  return room.counter(name) - room.usedCounter(name)
}
