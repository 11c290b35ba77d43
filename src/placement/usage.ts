import type { Allocation } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import type { JobSpec } from '../model/job.ts'
import { isOpen, type Node, type NodeFacts } from '../model/node.ts'
import { askOf } from './fit.ts'
import { hashText } from './mix.ts'
import { type Ask, inDynamicRange, type Room } from './room.ts'

type Held = Pick<Allocation, 'id' | 'node' | 'ports'>

/**
 * What the live allocations of every node hold, kept in columns and fed with each change, so that planning need not add
 * anything up. Everything here can be worked out again from nodes and allocations. Adding twice, or removing what is not
 * there, changes nothing.
 */
export class Usage {
  readonly #rows = new Map<NodeId, number>()
  readonly #nodes: (Node | undefined)[] = []
  readonly #held = new Map<AllocationId, { row: number; ask: Ask; ports: readonly number[] }>()
  readonly #counters: Map<string, number>[] = []
  readonly #ports: Map<number, string>[] = []
  readonly #cursor = new Cursor(this)
  #columns = makeColumns(64)

  setNode(node: Node): void {
    const row = this.#rowOf(node.id)
    const before = this.#nodes[row]?.facts?.ports
    this.#nodes[row] = node
    this.#columns.open[row] = isOpen(node) ? 1 : 0
    const after = node.facts?.ports
    if (before?.[0] !== after?.[0] || before?.[1] !== after?.[1]) this.#countDynamicPorts(row)
  }

  removeNode(id: NodeId): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    this.#nodes[row] = undefined
    this.#columns.open[row] = 0
  }

  add(allocation: Held, spec: JobSpec): void {
    this.remove(allocation)
    const row = this.#rowOf(allocation.node)
    const held = { row, ask: askOf(spec), ports: Object.values(allocation.ports) }
    this.#held.set(allocation.id, held)
    this.take(row, held.ask, held.ports, allocation.id)
  }

  remove({ id }: Pick<Held, 'id'>): void {
    const held = this.#held.get(id)
    if (!held) return
    this.#held.delete(id)
    this.give(held.row, held.ask, held.ports, id)
  }

  /** Rows are numbered from 0 and stay with their node. */
  get rows(): number {
    return this.#nodes.length
  }

  row(node: NodeId): number | undefined {
    return this.#rows.get(node)
  }

  /** The row's node; undefined when it has been removed or is not known yet. */
  node(row: number): Node | undefined {
    return this.#nodes[row]
  }

  isOpen(row: number): boolean {
    return this.#columns.open[row] === 1
  }

  /** Depends on the node's id only; for ties. */
  hash(row: number): number {
    return this.#columns.hash[row] ?? 0
  }

  /** What is held on a row whose node has facts. One object for all rows: it is good until the next call. */
  room(row: number): Room {
    return this.#cursor.at(row)
  }

  /** Holds something on a row until it is given back with the same arguments. */
  take(row: number, ask: Ask, ports: readonly number[], holder: string): void {
    this.#addTo(row, ask, 1)
    const held = this.#ports[row]
    const facts = this.#nodes[row]?.facts
    for (const port of ports) {
      if (facts && !held?.has(port) && inDynamicRange(facts, port)) add(this.#columns.dynamicPorts, row, 1)
      held?.set(port, holder)
    }
  }

  give(row: number, ask: Ask, ports: readonly number[], holder: string): void {
    this.#addTo(row, ask, -1)
    const held = this.#ports[row]
    const facts = this.#nodes[row]?.facts
    for (const port of ports) {
      if (held?.get(port) !== holder) continue
      held.delete(port)
      if (facts && inDynamicRange(facts, port)) add(this.#columns.dynamicPorts, row, -1)
    }
  }

  /** What an allocation holds, to imagine the node without it. */
  heldBy(id: AllocationId): { row: number; ask: Ask; ports: readonly number[] } | undefined {
    return this.#held.get(id)
  }

  /** For the room of one row. */
  facts(row: number): NodeFacts {
    const facts = this.#nodes[row]?.facts
    if (!facts) throw new Error('a node without facts has no room to look at')
    return facts
  }
  get columns(): Readonly<Columns> {
    return this.#columns
  }
  counter(row: number, name: string): number {
    return this.#counters[row]?.get(name) ?? 0
  }
  portHolder(row: number, port: number): string | undefined {
    return this.#ports[row]?.get(port)
  }

  #rowOf(id: NodeId): number {
    const known = this.#rows.get(id)
    if (known !== undefined) return known
    const row = this.#nodes.length
    if (row >= this.#columns.mhz.length) this.#columns = grown(this.#columns)
    this.#rows.set(id, row)
    this.#nodes.push(undefined)
    this.#counters.push(new Map())
    this.#ports.push(new Map())
    this.#columns.hash[row] = hashText(id)
    return row
  }

  #addTo(row: number, ask: Ask, sign: 1 | -1): void {
    add(this.#columns.mhz, row, sign * ask.cpuMHz)
    add(this.#columns.cores, row, sign * ask.cores)
    add(this.#columns.memory, row, sign * ask.memory)
    add(this.#columns.disk, row, sign * ask.disk)
    const counters = this.#counters[row]
    for (const { name, count } of ask.counters) {
      const next = (counters?.get(name) ?? 0) + sign * count
      if (next === 0) counters?.delete(name)
      else counters?.set(name, next)
    }
  }

  #countDynamicPorts(row: number): void {
    const facts = this.#nodes[row]?.facts
    let count = 0
    for (const port of this.#ports[row]?.keys() ?? []) if (facts && inDynamicRange(facts, port)) count += 1
    this.#columns.dynamicPorts[row] = count
  }
}

interface Columns {
  mhz: Float64Array
  cores: Float64Array
  memory: Float64Array
  disk: Float64Array
  dynamicPorts: Int32Array
  open: Uint8Array
  hash: Uint32Array
}

function makeColumns(length: number): Columns {
  return {
    mhz: new Float64Array(length),
    cores: new Float64Array(length),
    memory: new Float64Array(length),
    disk: new Float64Array(length),
    dynamicPorts: new Int32Array(length),
    open: new Uint8Array(length),
    hash: new Uint32Array(length),
  }
}

function grown(columns: Columns): Columns {
  const next = makeColumns(columns.mhz.length * 2)
  next.mhz.set(columns.mhz)
  next.cores.set(columns.cores)
  next.memory.set(columns.memory)
  next.disk.set(columns.disk)
  next.dynamicPorts.set(columns.dynamicPorts)
  next.open.set(columns.open)
  next.hash.set(columns.hash)
  return next
}

function add(column: Float64Array | Int32Array, row: number, amount: number): void {
  column[row] = (column[row] ?? 0) + amount
}

/** One row as a room, without making an object per row. */
class Cursor implements Room {
  readonly #usage: Usage
  #row = 0

  constructor(usage: Usage) {
    this.#usage = usage
  }

  at(row: number): this {
    this.#row = row
    return this
  }

  get facts(): NodeFacts {
    return this.#usage.facts(this.#row)
  }
  get usedMHz(): number {
    return this.#usage.columns.mhz[this.#row] ?? 0
  }
  get usedCores(): number {
    return this.#usage.columns.cores[this.#row] ?? 0
  }
  get usedMemory(): number {
    return this.#usage.columns.memory[this.#row] ?? 0
  }
  get usedDisk(): number {
    return this.#usage.columns.disk[this.#row] ?? 0
  }
  get usedDynamicPorts(): number {
    return this.#usage.columns.dynamicPorts[this.#row] ?? 0
  }

  usedCounter(name: string): number {
    return this.#usage.counter(this.#row, name)
  }

  portHolder(port: number): string | undefined {
    return this.#usage.portHolder(this.#row, port)
  }
}
