import type { RoomRule } from './rule.ts'

/** A port asked for by number has one holder per node, also while that holder is still stopping. */
export const staticPorts: RoomRule = {
  name: 'static ports',
  passes: (room, ask) => {
    for (const { port } of ask.staticPorts) if (room.portHolder(port) !== undefined) return false
    return true
  },
  refusal: (room, ask) => {
    const port = ask.staticPorts.find((each) => room.portHolder(each.port) !== undefined)?.port ?? 0
    return {
      words: [`has port ${port} in use`, `have port ${port} in use`],
      help: `add a node where port ${port} is free, or use a dynamic port`,
    }
  },
}
