import type { Allocation } from '../model/allocation.ts'
import type { Job, Slot } from '../model/records.ts'
import { Candidates } from './candidates.ts'
import { hasRoom } from './fit.ts'
import { mix } from './mix.ts'
import type { PlaceMove } from './move.ts'
import { pickPorts } from './ports.ts'
import { failureCost, homeBonus, volumeBonus } from './rank.ts'
import type { Entry } from './standing.ts'
import type { Usage } from './usage.ts'

/** Failures of one job on one node within this long make the node the last choice. */
const faultyMs = 5 * 60_000
const faultyCount = 5

interface PlacingOptions {
  job: Job
  entries: readonly Entry[]
  now: number
  seed: number
}

/**
 * Finds places for the copies of one job. What it hands out counts as used until `restore` gives it back, so that the
 * next copy sees each node as it will be.
 */
export class Placing {
  readonly #usage: Usage
  readonly #options: PlacingOptions
  readonly #held: (() => void)[] = []
  #known: Candidates | undefined

  constructor(usage: Usage, options: PlacingOptions) {
    this.#usage = usage
    this.#options = options
  }

  /** Where the slot's next copy goes, or undefined when no node can take it. */
  place({ index, slot, newest }: Entry): PlaceMove | undefined {
    const row = this.#candidates.best(this.#adjustments(slot, newest))
    const node = row === undefined ? undefined : this.#usage.node(row)
    if (row === undefined || !node) return undefined
    return {
      kind: 'place',
      slot: index,
      expects: slot?.allocation ?? null,
      node: node.id,
      ports: this.#hold(row, index),
    }
  }

  /** Would a copy of the newest version find a place once this one is gone? Such a place is held for it. */
  canReplace(index: number, { id }: Allocation): boolean {
    const held = this.#usage.heldBy(id)
    if (held && this.#candidates.couldTake(held.row)) {
      this.#usage.give(held.row, held.ask, held.ports, id)
      const fits = hasRoom(this.#usage.room(held.row), this.#candidates.ask)
      this.#usage.take(held.row, held.ask, held.ports, id)
      if (fits) return true
    }
    const row = this.#candidates.best(new Map())
    if (row !== undefined) this.#hold(row, index)
    return row !== undefined
  }

  restore(): void {
    for (const give of this.#held.splice(0).reverse()) give()
  }

  #hold(row: number, index: number): Record<string, number> {
    const { ask } = this.#candidates
    const ports = pickPorts(this.#usage.room(row), ask, mix(this.#options.seed, index))
    const numbers = Object.values(ports)
    const holder = `planned/${index}`
    this.#usage.take(row, ask, numbers, holder)
    this.#held.push(() => this.#usage.give(row, ask, numbers, holder))
    this.#candidates.addCopy(row)
    return ports
  }

  /** What the slot's history adds to the cost of nodes. */
  #adjustments(slot: Slot | undefined, newest: Allocation | undefined): Map<number, number> {
    const adjustments = new Map<number, number>()
    const adjust = (node: Allocation['node'], extra: number) => {
      const row = this.#usage.row(node)
      if (row !== undefined) adjustments.set(row, (adjustments.get(row) ?? 0) + extra)
    }
    for (const { node } of slot?.failures ?? []) adjust(node, failureCost)
    if (newest && Object.keys(this.#options.job.spec.volumes).length > 0) adjust(newest.node, -volumeBonus)
    else if (newest?.phase === 'stopped') adjust(newest.node, -homeBonus)
    return adjustments
  }

  /** Gathered when first needed: most plans place nothing. */
  get #candidates(): Candidates {
    const { job, seed } = this.#options
    this.#known ??= new Candidates(this.#usage, { job, seed, copies: this.#copies(), faulty: this.#faulty() })
    return this.#known
  }

  /** Copies per row that are there to stay. */
  #copies(): Int32Array {
    const copies = new Int32Array(this.#usage.rows)
    for (const { standing } of this.#options.entries) {
      if (standing.kind !== 'current' && standing.kind !== 'outdated') continue
      const row = this.#usage.row(standing.allocation.node)
      if (row !== undefined) copies[row] = (copies[row] ?? 0) + 1
    }
    return copies
  }

  #faulty(): Set<number> {
    const counts = new Map<number, number>()
    const since = this.#options.now - faultyMs
    for (const { slot } of this.#options.entries) {
      for (const { node, at } of slot?.failures ?? []) {
        const row = at > since ? this.#usage.row(node) : undefined
        if (row !== undefined) counts.set(row, (counts.get(row) ?? 0) + 1)
      }
    }
    return new Set([...counts].filter(([, count]) => count >= faultyCount).map(([row]) => row))
  }
}
