import { type Ask, inDynamicRange, type Room } from '../room.ts'
import type { RoomRule } from './rule.ts'

/** Enough free ports in the node's dynamic range, beside the static ones that the copy itself takes from it. */
export const dynamicPorts: RoomRule = {
  name: 'dynamic ports',
  passes: (room, ask) => ask.dynamicPorts.length === 0 || ask.dynamicPorts.length <= free(room, ask),
  refusal: (room, ask) => ({
    words: ['lacks dynamic ports', 'lack dynamic ports'],
    short: { needs: ask.dynamicPorts.length, free: Math.max(0, free(room, ask)), format: String },
    help: 'widen the range of dynamic ports of a node',
  }),
}

function free(room: Room, ask: Ask): number {
  let count = room.lastDynamicPort - room.firstDynamicPort + 1 - room.usedDynamicPorts
  for (const { port } of ask.staticPorts) if (inDynamicRange(room, port)) count -= 1
  return count
}
