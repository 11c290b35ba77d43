import type { JobSpec } from '../model/job.ts'
import type { Ask, Room } from './room.ts'

/**
 * How unwelcome a copy is on a node that could take it: the lowest cost wins. The first copies of a job go to different
 * nodes whatever their load; the more there are, the more the load decides, so that large nodes take more of them.
 * Services spread over the machines; batch copies fill machines up, which keeps whole machines free for what is large.
 */
export function cost(room: Room, ask: Ask, copies: number, type: JobSpec['type']): number {
  return (2 * copies) / (1 + copies) + (type === 'service' ? load(room, ask) : 1 - load(room, ask))
}

/** A node on which this very slot failed comes after all others, once for each failure. */
export const failureCost = 4
/** So does a node on which copies of the job fail again and again. */
export const faultyCost = 4
/** Back to the node of its last allocation: what it needs may still be there. */
export const homeBonus = 0.25
/** Back to the node that has the slot's volumes, unless it cannot be. */
export const volumeBonus = 1000

/** The mean of the squared shares of CPU and memory: one nearly used up counts more than two half used. */
function load(room: Room, ask: Ask): number {
  const { coreMHz } = room
  const cpu = (room.usedMHz + ask.cpuMHz + (room.usedCores + ask.cores) * coreMHz) / (room.cores * coreMHz)
  const memory = room.memory === 0 ? 1 : (room.usedMemory + ask.memory) / room.memory
  return (cpu * cpu + memory * memory) / 2
}
