/**
 * What one copy of a job asks of a node, and what a node has: the two sides of every question about room.
 * CPU is asked for in MHz or in cores; on a node a core is worth its own MHz.
 */
export interface Ask {
  cpuMHz: number
  cores: number
  memory: number
  disk: number
  counters: readonly CounterAsk[]
  staticPorts: readonly StaticPortAsk[]
  /** Names of the ports that may be any free one. */
  dynamicPorts: readonly string[]
}

export interface CounterAsk {
  name: string
  count: number
}

export interface StaticPortAsk {
  name: string
  port: number
}

/** One node's capacity and what its live allocations hold of it. */
export interface Room {
  readonly cores: number
  readonly coreMHz: number
  readonly memory: number
  readonly disk: number
  counter(name: string): number
  readonly firstDynamicPort: number
  readonly lastDynamicPort: number
  readonly usedMHz: number
  readonly usedCores: number
  readonly usedMemory: number
  readonly usedDisk: number
  usedCounter(name: string): number
  /** Who holds the port, or undefined. */
  portHolder(port: number): string | undefined
  /** How many ports of the node's dynamic range are held. */
  readonly usedDynamicPorts: number
}

export function inDynamicRange(
  { firstDynamicPort, lastDynamicPort }: Pick<Room, 'firstDynamicPort' | 'lastDynamicPort'>,
  port: number,
): boolean {
  return port >= firstDynamicPort && port <= lastDynamicPort
}
