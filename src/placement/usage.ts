import type { Allocation } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import type { JobSpec } from '../model/job.ts'
import { isOpen, type Node } from '../model/node.ts'
import { askOf } from './fit.ts'
import { hashText } from './mix.ts'
import { type Ask, inDynamicRange, type Room } from './room.ts'
import { Verdicts } from './verdicts.ts'

type Held = Pick<Allocation, 'id' | 'node' | 'ports'>

/**
 * What the live allocations and sandboxes of every node hold, kept in columns and fed with each change, so that planning need not add
 * anything up. Everything here can be worked out again from nodes and allocations. Adding twice, or removing what is not
 * there, changes nothing.
 */
export class Usage {
  readonly #rows = new Map<NodeId, number>()
  readonly #nodes: (Node | undefined)[] = []
  readonly #held = new Map<string, { row: number; ask: Ask; ports: readonly number[] }>()
  readonly #counters: Map<string, number>[] = []
  readonly #ports: Map<number, string>[] = []
  readonly #cursor = new Cursor(this)
  /** Remembered between plans, since it costs more than counting. */
  readonly verdicts = new Verdicts()
  #columns = makeColumns(64)

  setNode(node: Node): void {
    const row = this.#rowOf(node.id)
    const { facts } = node
    this.#nodes[row] = node
    const columns = this.#columns
    columns.open[row] = isOpen(node) ? 1 : 0
    columns.cores[row] = facts?.cores ?? 0
    columns.coreMHz[row] = facts?.coreMHz ?? 0
    columns.memory[row] = facts?.memory ?? 0
    columns.disk[row] = facts?.disk ?? 0
    const [first, last] = facts?.ports ?? noPorts
    if (columns.firstPort[row] === first && columns.lastPort[row] === last) return
    columns.firstPort[row] = first
    columns.lastPort[row] = last
    this.#countDynamicPorts(row)
  }

  removeNode(id: NodeId): void {
    const row = this.#rows.get(id)
    if (row === undefined) return
    this.#nodes[row] = undefined
    this.#columns.open[row] = 0
  }

  add(allocation: Held, spec: JobSpec): void {
    this.hold(allocation.id, allocation.node, askOf(spec), Object.values(allocation.ports))
  }

  /** For whatever lives on a node: an allocation, or a sandbox. */
  hold(id: string, node: NodeId, ask: Ask, ports: readonly number[] = []): void {
    this.remove({ id })
    const row = this.#rowOf(node)
    const held = { row, ask, ports }
    this.#held.set(id, held)
    this.take(row, ask, ports, id)
  }

  remove({ id }: { id: string }): void {
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
    for (const port of ports) {
      if (!held?.has(port) && this.#isDynamic(row, port)) add(this.#columns.usedDynamicPorts, row, 1)
      held?.set(port, holder)
    }
  }

  give(row: number, ask: Ask, ports: readonly number[], holder: string): void {
    this.#addTo(row, ask, -1)
    const held = this.#ports[row]
    for (const port of ports) {
      if (held?.get(port) !== holder) continue
      held.delete(port)
      if (this.#isDynamic(row, port)) add(this.#columns.usedDynamicPorts, row, -1)
    }
  }

  /** What an allocation holds, to imagine the node without it. */
  heldBy(id: AllocationId): { row: number; ask: Ask; ports: readonly number[] } | undefined {
    return this.#held.get(id)
  }

  /** For the room of one row. */
  get columns(): Readonly<Columns> {
    return this.#columns
  }
  counter(row: number, name: string): number {
    return this.#nodes[row]?.facts?.counters[name] ?? 0
  }
  usedCounter(row: number, name: string): number {
    return this.#counters[row]?.get(name) ?? 0
  }
  portHolder(row: number, port: number): string | undefined {
    return this.#ports[row]?.get(port)
  }

  #rowOf(id: NodeId): number {
    const known = this.#rows.get(id)
    if (known !== undefined) return known
    const row = this.#nodes.length
    if (row >= this.#columns.open.length) this.#columns = grown(this.#columns)
    this.#rows.set(id, row)
    this.#nodes.push(undefined)
    this.#counters.push(new Map())
    this.#ports.push(new Map())
    this.#columns.hash[row] = hashText(id)
    return row
  }

  #addTo(row: number, ask: Ask, sign: 1 | -1): void {
    add(this.#columns.usedMHz, row, sign * ask.cpuMHz)
    add(this.#columns.usedCores, row, sign * ask.cores)
    add(this.#columns.usedMemory, row, sign * ask.memory)
    add(this.#columns.usedDisk, row, sign * ask.disk)
    const counters = this.#counters[row]
    for (const { name, count } of ask.counters) {
      const next = (counters?.get(name) ?? 0) + sign * count
      if (next === 0) counters?.delete(name)
      else counters?.set(name, next)
    }
  }

  #countDynamicPorts(row: number): void {
    let count = 0
    for (const port of this.#ports[row]?.keys() ?? []) if (this.#isDynamic(row, port)) count += 1
    this.#columns.usedDynamicPorts[row] = count
  }

  #isDynamic(row: number, port: number): boolean {
    return inDynamicRange(this.#cursor.at(row), port)
  }
}

/** A range that no port is in: of a node that has not said what it is. */
const noPorts = [0, -1] as const

/** What nodes have, and what is held of it. */
type Columns = ReturnType<typeof makeColumns>

function makeColumns(length: number) {
  return {
    open: new Uint8Array(length),
    hash: new Uint32Array(length),
    cores: new Float64Array(length),
    coreMHz: new Float64Array(length),
    memory: new Float64Array(length),
    disk: new Float64Array(length),
    firstPort: new Int32Array(length),
    lastPort: new Int32Array(length).fill(-1),
    usedMHz: new Float64Array(length),
    usedCores: new Float64Array(length),
    usedMemory: new Float64Array(length),
    usedDisk: new Float64Array(length),
    usedDynamicPorts: new Int32Array(length),
  }
}

function grown(columns: Columns): Columns {
  const next = makeColumns(columns.open.length * 2)
  for (const name of Object.keys(next) as (keyof Columns)[]) next[name].set(columns[name])
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

  get cores(): number {
    return this.#usage.columns.cores[this.#row] ?? 0
  }
  get coreMHz(): number {
    return this.#usage.columns.coreMHz[this.#row] ?? 0
  }
  get memory(): number {
    return this.#usage.columns.memory[this.#row] ?? 0
  }
  get disk(): number {
    return this.#usage.columns.disk[this.#row] ?? 0
  }
  get firstDynamicPort(): number {
    return this.#usage.columns.firstPort[this.#row] ?? 0
  }
  get lastDynamicPort(): number {
    return this.#usage.columns.lastPort[this.#row] ?? 0
  }
  get usedMHz(): number {
    return this.#usage.columns.usedMHz[this.#row] ?? 0
  }
  get usedCores(): number {
    return this.#usage.columns.usedCores[this.#row] ?? 0
  }
  get usedMemory(): number {
    return this.#usage.columns.usedMemory[this.#row] ?? 0
  }
  get usedDisk(): number {
    return this.#usage.columns.usedDisk[this.#row] ?? 0
  }
  get usedDynamicPorts(): number {
    return this.#usage.columns.usedDynamicPorts[this.#row] ?? 0
  }

  counter(name: string): number {
    return this.#usage.counter(this.#row, name)
  }

  usedCounter(name: string): number {
    return this.#usage.usedCounter(this.#row, name)
  }

  portHolder(port: number): string | undefined {
    return this.#usage.portHolder(this.#row, port)
  }
}
