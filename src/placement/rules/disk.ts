import { formatSize } from '../../model/units.ts'
import type { RoomRule } from './rule.ts'

/** Disk that is reserved for task directories. */
export const disk: RoomRule = {
  name: 'disk',
  passes: (room, ask) => ask.disk === 0 || room.usedDisk + ask.disk <= room.disk,
  refusal: (room, ask) => ({
    words: ['lacks disk', 'lack disk'],
    short: { needs: ask.disk, free: Math.max(0, room.disk - room.usedDisk), format: formatSize },
    help: `add a node with ${formatSize(ask.disk)} of free disk`,
  }),
}
