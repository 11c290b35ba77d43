import { formatSize } from '../../model/units.ts'
import type { RoomRule } from './rule.ts'

/** Memory that is reserved, whether it is used or not. */
export const memory: RoomRule = {
  name: 'memory',
  passes: (room, ask) => ask.memory === 0 || room.usedMemory + ask.memory <= room.memory,
  refusal: (room, ask) => ({
    words: ['lacks memory', 'lack memory'],
    short: { needs: ask.memory, free: Math.max(0, room.memory - room.usedMemory), format: formatSize },
    help: `add a node with ${formatSize(ask.memory)} of free memory`,
  }),
}
