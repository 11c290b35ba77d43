import type { Job } from '../model/records.ts'
import { askOf, hasRoom } from './fit.ts'
import { mix } from './mix.ts'
import { cost, faultyCost } from './rank.ts'
import type { Ask } from './room.ts'
import type { Usage } from './usage.ts'
import type { Verdict } from './verdicts.ts'

interface CandidatesOptions {
  job: Job
  seed: number
  /** Copies of the job that stay where they are, by row. */
  copies: Int32Array
  /** Rows on which copies of the job fail again and again. */
  faulty: ReadonlySet<number>
}

/**
 * The nodes that can take one more copy of a job, cheapest first: a heap over rows, where a placement re-ranks one node
 * and leaves the others alone. While a plan is made nothing is given back, so a node that is full stays out.
 */
export class Candidates {
  readonly ask: Ask
  readonly #usage: Usage
  readonly #options: CandidatesOptions
  readonly #verdict: Verdict
  readonly #costs: Float64Array
  readonly #ties: Uint32Array
  /** Where each row stands in the heap; -1: not a candidate. */
  readonly #places: Int32Array
  readonly #heap: number[] = []

  constructor(usage: Usage, options: CandidatesOptions) {
    this.ask = askOf(options.job.spec)
    this.#usage = usage
    this.#verdict = usage.verdicts.of(options.job.spec)
    this.#options = options
    this.#costs = new Float64Array(usage.rows)
    this.#ties = new Uint32Array(usage.rows)
    this.#places = new Int32Array(usage.rows).fill(-1)
    for (let row = 0; row < usage.rows; row += 1) if (this.#admits(row)) this.#enter(row)
    for (let at = (this.#heap.length >> 1) - 1; at >= 0; at -= 1) this.#sink(at)
  }

  /** The cheapest row, with something added to the cost of a few; undefined when none is left. */
  best(adjusted: ReadonlyMap<number, number>): number | undefined {
    let best = this.#bestExcept(adjusted)
    let lowest = best === undefined ? Number.POSITIVE_INFINITY : this.#cost(best)
    for (const [row, extra] of adjusted) {
      if (!this.includes(row)) continue
      const adjustedCost = this.#cost(row) + extra
      if (adjustedCost > lowest || (adjustedCost === lowest && best !== undefined && !this.#tieBefore(row, best)))
        continue
      best = row
      lowest = adjustedCost
    }
    return best
  }

  includes(row: number): boolean {
    return (this.#places[row] ?? -1) >= 0
  }

  /** May the node take copies of this job at all, room aside? */
  couldTake(row: number): boolean {
    const node = this.#usage.isOpen(row) ? this.#usage.node(row) : undefined
    return node !== undefined && this.#verdict.passes(row, node)
  }

  /** The row has taken a copy: it is ranked anew, or leaves when it is full. */
  addCopy(row: number): void {
    const { copies } = this.#options
    copies[row] = (copies[row] ?? 0) + 1
    const at = this.#places[row] ?? -1
    if (at < 0) return
    if (hasRoom(this.#usage.room(row), this.ask)) {
      this.#costs[row] = this.#costOf(row)
      this.#settle(at)
      return
    }
    const last = this.#heap.pop()
    this.#places[row] = -1
    if (last === undefined || last === row) return
    this.#put(at, last)
    this.#settle(at)
  }

  #admits(row: number): boolean {
    return this.#usage.isOpen(row) && hasRoom(this.#usage.room(row), this.ask) && this.couldTake(row)
  }

  #enter(row: number): void {
    this.#costs[row] = this.#costOf(row)
    this.#ties[row] = mix(this.#usage.hash(row), this.#options.seed)
    this.#places[row] = this.#heap.length
    this.#heap.push(row)
  }

  #costOf(row: number): number {
    const { job, copies, faulty } = this.#options
    const plain = cost(this.#usage.room(row), this.ask, copies[row] ?? 0, job.spec.type)
    return faulty.has(row) ? plain + faultyCost : plain
  }

  /** Walks the heap from its top, going below a row only when that row is adjusted and so does not count here. */
  #bestExcept(adjusted: ReadonlyMap<number, number>): number | undefined {
    let best: number | undefined
    const open = [0]
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      const row = this.#heap[at]
      if (row === undefined || (best !== undefined && !this.#before(row, best))) continue
      if (adjusted.has(row)) open.push(2 * at + 1, 2 * at + 2)
      else best = row
    }
    return best
  }

  #cost(row: number): number {
    return this.#costs[row] ?? 0
  }

  #before(a: number, b: number): boolean {
    const difference = this.#cost(a) - this.#cost(b)
    return difference < 0 || (difference === 0 && this.#tieBefore(a, b))
  }

  #tieBefore(a: number, b: number): boolean {
    return (this.#ties[a] ?? 0) < (this.#ties[b] ?? 0)
  }

  #settle(at: number): void {
    let place = at
    while (place > 0) {
      const parent = (place - 1) >> 1
      if (!this.#swapIfBefore(place, parent)) break
      place = parent
    }
    this.#sink(place)
  }

  #sink(at: number): void {
    let place = at
    while (true) {
      const left = 2 * place + 1
      const right = left + 1
      const leftRow = this.#heap[left]
      const rightRow = this.#heap[right]
      if (leftRow === undefined) return
      const child = rightRow !== undefined && this.#before(rightRow, leftRow) ? right : left
      if (!this.#swapIfBefore(child, place)) return
      place = child
    }
  }

  #swapIfBefore(child: number, parent: number): boolean {
    const lower = this.#heap[child]
    const upper = this.#heap[parent]
    if (lower === undefined || upper === undefined || !this.#before(lower, upper)) return false
    this.#put(parent, lower)
    this.#put(child, upper)
    return true
  }

  #put(at: number, row: number): void {
    this.#heap[at] = row
    this.#places[row] = at
  }
}
