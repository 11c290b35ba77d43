import type { Allocation } from '../model/allocation.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'
import type { Node, NodeFacts } from '../model/node.ts'
import type { Sandbox } from '../model/sandbox.ts'
import { type Ask, inDynamicRange, type Room } from './room.ts'
import { roomRules } from './rules/all.ts'
import type { Refusal } from './rules/rule.ts'

/**
 * Has this node room for that copy? One answer for planning and for the commit: both go through `roomRefusal`, so they
 * cannot disagree for ever.
 */

/** What a node's live allocations and sandboxes hold, added up. */
export interface NodeUsed {
  cpuMHz: number
  cores: number
  memory: number
  disk: number
  counters: Map<string, number>
  /** Port → the allocation that holds it. */
  ports: Map<number, string>
}

/** Why the copy cannot be taken, or undefined when it fits. `ports`: the very ports it would get, to be free as well. */
export function fit(
  node: Node,
  used: NodeUsed,
  ask: Ask,
  ports: Readonly<Record<string, number>> = {},
): Refusal | undefined {
  if (!node.facts) {
    return { words: ['has not said yet what it is', 'have not said yet what they are'], help: 'wait for its agent' }
  }
  const refusal = roomRefusal(new UsedRoom(node.facts, used), ask)
  if (refusal) return refusal
  const taken = Object.values(ports).find((port) => used.ports.has(port))
  return taken === undefined
    ? undefined
    : { words: [`has port ${taken} in use`, `have port ${taken} in use`], help: 'plan again' }
}

/** The first rule that refuses answers. */
export function roomRefusal(room: Room, ask: Ask): Refusal | undefined {
  for (const rule of roomRules) if (!rule.passes(room, ask)) return rule.refusal(room, ask)
  return undefined
}

export function hasRoom(room: Room, ask: Ask): boolean {
  for (const rule of roomRules) if (!rule.passes(room, ask)) return false
  return true
}

/** Added up from the truth. `specOf` says which spec an allocation runs; `sandboxes` are those that hold room. */
export function usageOf(
  allocations: Iterable<Pick<Allocation, 'id' | 'job' | 'version' | 'ports'>>,
  specOf: (job: string, version: number) => JobSpec | undefined,
  sandboxes: Iterable<Pick<Sandbox, 'reserved'>> = [],
): NodeUsed {
  const used: NodeUsed = { cpuMHz: 0, cores: 0, memory: 0, disk: 0, counters: new Map(), ports: new Map() }
  for (const allocation of allocations) {
    const spec = specOf(allocation.job, allocation.version)
    withAllocation(used, spec ? askOf(spec) : nothing, allocation)
  }
  for (const sandbox of sandboxes) withSandbox(used, sandbox)
  return used
}

/** Counts one more sandbox in. */
export function withSandbox(used: NodeUsed, { reserved }: Pick<Sandbox, 'reserved'>): void {
  used.cpuMHz += reserved.cpuMHz
  used.memory += reserved.memory
}

/** A sandbox's reservation as what it asks of its node. */
export function askOfSandbox({ reserved }: Pick<Sandbox, 'reserved'>): Ask {
  return { ...nothing, cpuMHz: reserved.cpuMHz, memory: reserved.memory }
}

/** Counts one more allocation in. */
export function withAllocation(used: NodeUsed, ask: Ask, { id, ports }: Pick<Allocation, 'id' | 'ports'>): void {
  used.cpuMHz += ask.cpuMHz
  used.cores += ask.cores
  used.memory += ask.memory
  used.disk += ask.disk
  for (const { name, count } of ask.counters) used.counters.set(name, (used.counters.get(name) ?? 0) + count)
  for (const port of Object.values(ports)) used.ports.set(port, id)
}

/**
 * What one copy holds as long as it lives. Its tasks do not all run at once: prestart tasks run one after another before
 * main tasks and sidecars, which run together, and poststop tasks one after another behind them; so it holds the most
 * that any of these moments needs. Only disk adds up, because task directories stay until the end.
 */
export function askOf(spec: JobSpec): Ask {
  const known = asks.get(spec)
  if (known) return known
  const ask = makeAsk(spec)
  asks.set(spec, ask)
  return ask
}

const asks = new WeakMap<JobSpec, Ask>()
const nothing: Ask = { cpuMHz: 0, cores: 0, memory: 0, disk: 0, counters: [], staticPorts: [], dynamicPorts: [] }

function makeAsk(spec: JobSpec): Ask {
  const tasks = Object.values(spec.tasks)
  const together = tasks.filter((task) => task.role === 'main' || task.role === 'sidecar')
  const moments = [together, ...tasks.filter((task) => !together.includes(task)).map((task) => [task])]
  const most = (amount: (task: TaskSpec) => number) => Math.max(...moments.map((moment) => sum(moment, amount)))
  const names = new Set(tasks.flatMap((task) => Object.keys(task.resources.counters)))
  const ports = Object.entries(spec.ports)
  return {
    cpuMHz: fixed(most((task) => task.resources.cpu)),
    cores: fixed(most((task) => task.resources.cores)),
    memory: most((task) => task.resources.memory),
    disk: sum(tasks, (task) => task.resources.disk),
    counters: [...names]
      .map((name) => ({ name, count: most((task) => task.resources.counters[name] ?? 0) }))
      .filter(({ count }) => count > 0),
    staticPorts: ports.flatMap(([name, port]) => (port.static === undefined ? [] : [{ name, port: port.static }])),
    dynamicPorts: ports.filter(([, port]) => port.static === undefined).map(([name]) => name),
  }
}

function sum(tasks: readonly TaskSpec[], amount: (task: TaskSpec) => number): number {
  return tasks.reduce((total, task) => total + amount(task), 0)
}

/** A multiple of 1/1024, rounded down: such numbers add up and are taken away again without an error that grows. */
function fixed(amount: number): number {
  return Math.floor(amount * 1024) / 1024
}

class UsedRoom implements Room {
  readonly #facts: NodeFacts
  readonly #used: NodeUsed

  constructor(facts: NodeFacts, used: NodeUsed) {
    this.#facts = facts
    this.#used = used
  }

  get cores(): number {
    return this.#facts.cores
  }
  get coreMHz(): number {
    return this.#facts.coreMHz
  }
  get memory(): number {
    return this.#facts.memory
  }
  get disk(): number {
    return this.#facts.disk
  }
  get firstDynamicPort(): number {
    return this.#facts.ports[0]
  }
  get lastDynamicPort(): number {
    return this.#facts.ports[1]
  }

  get usedMHz(): number {
    return this.#used.cpuMHz
  }
  get usedCores(): number {
    return this.#used.cores
  }
  get usedMemory(): number {
    return this.#used.memory
  }
  get usedDisk(): number {
    return this.#used.disk
  }
  get usedDynamicPorts(): number {
    let count = 0
    for (const port of this.#used.ports.keys()) if (inDynamicRange(this, port)) count += 1
    return count
  }

  counter(name: string): number {
    return this.#facts.counters[name] ?? 0
  }

  usedCounter(name: string): number {
    return this.#used.counters.get(name) ?? 0
  }

  portHolder(port: number): string | undefined {
    return this.#used.ports.get(port)
  }
}
