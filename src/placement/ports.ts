import { mix } from './mix.ts'
import type { Ask, Room } from './room.ts'

/** Port numbers for a copy on a node that has room for it. Dynamic ones are looked for from a place that `seed` decides. */
export function pickPorts(room: Room, ask: Ask, seed: number): Record<string, number> {
  const ports: Record<string, number> = {}
  for (const { name, port } of ask.staticPorts) ports[name] = port
  if (ask.dynamicPorts.length === 0) return ports
  const first = room.firstDynamicPort
  const size = room.lastDynamicPort - first + 1
  const taken = new Set(Object.values(ports))
  let at = mix(seed, ask.dynamicPorts.length) % size
  for (const name of ask.dynamicPorts) {
    for (let tries = 0; tries < size && !(name in ports); tries += 1) {
      const port = first + at
      at = (at + 1) % size
      if (room.portHolder(port) === undefined && !taken.has(port)) ports[name] = port
    }
  }
  return ports
}
