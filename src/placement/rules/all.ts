import { constraints } from './constraints.ts'
import { counters } from './counters.ts'
import { cpu } from './cpu.ts'
import { disk } from './disk.ts'
import { drivers } from './drivers.ts'
import { dynamicPorts } from './dynamic-ports.ts'
import { memory } from './memory.ts'
import { networks } from './networks.ts'
import { open } from './open.ts'
import type { NodeRule, RoomRule } from './rule.ts'
import { staticPorts } from './static-ports.ts'
import { volumes } from './volumes.ts'

/** Every rule, in the order in which they answer: the first that refuses a node speaks for it. */
export const nodeRules: readonly NodeRule[] = [open, drivers, networks, volumes, constraints]
export const roomRules: readonly RoomRule[] = [staticPorts, cpu, memory, disk, counters, dynamicPorts]
