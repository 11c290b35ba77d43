import type { Allocation } from '../model/allocation.ts'
import type { Job } from '../model/records.ts'
import type { Move, Plan, StopMove } from './move.ts'
import { Placing } from './placing.ts'
import { exhaustedProblem, stopReason, unplacedProblem, updateProblem } from './problems.ts'
import { type Entry, type Standing, standings } from './standing.ts'
import type { Usage } from './usage.ts'
import type { PlanView } from './view.ts'

export interface PlanOptions {
  /** Ms since the epoch. */
  now: number
  /** 32 bits that decide between equals; the same seed gives the same plan. */
  seed: number
  /** Most moves of one plan; the rest is left for the next. */
  limit?: number
}

/**
 * What to do next so that the cluster comes closer to what the job wants. Pure: the same view, usage and options give
 * the same plan, and `usage` is left as it was found. Of a job that is as it should be the plan is empty, and every move
 * of a plan brings the job nearer to that.
 *
 *   too many            stop, at once
 *   empty               place, unless it is done, pausing, or failed too often
 *   cannot stay         stop, `update.parallel` at a time; at once when a drain's deadline has passed
 *   older version       keep when nothing changed that needs a restart; else stop, `update.parallel` at a time and
 *                       only when the new version has a place to go
 */
export function plan(view: PlanView, usage: Usage, job: Job, options: PlanOptions): Plan {
  const planning = new Planning(view, usage, job, options)
  try {
    return planning.run()
  } finally {
    planning.restore()
  }
}

/** Health may change without the job being marked; a copy that waits for another's health looks again this often. */
const lookAgainMs = 2000

class Planning {
  readonly #view: PlanView
  readonly #usage: Usage
  readonly #job: Job
  readonly #options: PlanOptions
  readonly #entries: readonly Entry[]
  readonly #placing: Placing
  readonly #moves: Move[] = []
  readonly #problems: string[] = []
  #wakeAt: number | null = null
  /** Copies that are away or not yet well: they use up what `update.parallel` allows. */
  #away = 0
  /** Copies of the newest version that failed too often: they hold up an update, but not a drain. */
  #broken = 0
  #later = 0
  #settled = true

  constructor(view: PlanView, usage: Usage, job: Job, options: PlanOptions) {
    this.#view = view
    this.#usage = usage
    this.#job = job
    this.#options = options
    this.#entries = standings(view, job, options.now)
    this.#placing = new Placing(usage, { job, entries: this.#entries, now: options.now, seed: options.seed })
  }

  run(): Plan {
    this.#stopExcess()
    this.#fillSlots()
    this.#countUnwell()
    this.#makeWay()
    this.#keepOthers()
    return {
      job: this.#job.name,
      version: this.#job.version,
      moves: this.#moves,
      blocked: this.#problems.filter((problem) => problem !== '').join('. '),
      settled: this.#settled,
      wakeAt: this.#wakeAt,
      later: this.#later,
    }
  }

  restore(): void {
    this.#placing.restore()
  }

  /** The highest slots first. */
  #stopExcess(): void {
    for (const { index, standing } of this.#entries.toReversed()) {
      if (standing.kind === 'excess') this.#stop(index, standing.allocation, 'excess', standing.reason)
      if (standing.kind === 'excess' || standing.kind === 'stopping') this.#settled = false
    }
  }

  #fillSlots(): void {
    let unplaced = 0
    for (const entry of this.#entries) {
      const { standing } = entry
      if (standing.kind !== 'vacant' && standing.kind !== 'pausing' && standing.kind !== 'exhausted') continue
      this.#settled = false
      if (standing.kind === 'exhausted') this.#broken += entry.newest?.version === this.#job.version ? 1 : 0
      else if (standing.kind === 'pausing') this.#wake(standing.until)
      const outcome = standing.kind === 'vacant' ? this.#place(entry) : 'later'
      if (outcome === 'nowhere') unplaced += 1
      if (standing.kind !== 'exhausted' && (outcome === 'placed' || this.#isAway(entry))) this.#away += 1
    }
    if (unplaced > 0) this.#problems.push(unplacedProblem(this.#usage, this.#job, unplaced))
    this.#problems.push(exhaustedProblem(this.#job, this.#entries))
  }

  #place(entry: Entry): 'placed' | 'nowhere' | 'later' {
    if (this.#isFull()) return 'later'
    const move = this.#placing.place(entry)
    if (!move) return 'nowhere'
    this.#moves.push(move)
    return 'placed'
  }

  /** A copy that is missing for want of room does not hold up the others, unless this update took it down. */
  #isAway({ newest }: Entry): boolean {
    return newest !== undefined && (newest.desired === 'stop' || newest.version === this.#job.version)
  }

  #countUnwell(): void {
    const { spec } = this.#job
    for (const { index, standing } of this.#entries) {
      this.#heedDeadline(standing)
      if (standing.kind === 'stopping' && index < spec.count) this.#away += 1
      if (standing.kind !== 'current') continue
      const wellAt = this.#wellAt(standing.allocation)
      if (wellAt <= this.#options.now) continue
      if (Number.isFinite(wellAt)) this.#wake(wellAt)
      this.#away += 1
      if (spec.type === 'service') this.#settled = false
    }
  }

  /** From when on the copy counts as well; infinity: nobody knows. */
  #wellAt({ healthy, healthyAt, changedAt }: Allocation): number {
    return healthy ? (healthyAt ?? changedAt) + this.#job.spec.update.healthyAfter : Number.POSITIVE_INFINITY
  }

  /** What a drain lets be for now has to be looked at again when its deadline comes. */
  #heedDeadline(standing: Standing): void {
    const node = 'allocation' in standing ? this.#view.node(standing.allocation.node) : undefined
    const deadline = node?.drain?.deadline ?? null
    if (deadline !== null && deadline > this.#options.now) this.#wake(deadline)
  }

  /** Stops copies that must leave their node or their version, the unhealthy first. */
  #makeWay(): void {
    let withoutRoom = 0
    for (const { index, standing } of leavers(this.#entries)) {
      let may = this.#mayStop(standing) && !this.#isFull()
      if (may && standing.kind === 'outdated' && !this.#placing.canReplace(index, standing.allocation)) {
        withoutRoom += 1
        may = false
      }
      if (may) {
        this.#away += 1
        this.#stop(index, standing.allocation, standing.kind, stopReason(this.#job, standing))
      } else this.#later += 1
      if (may || standing.kind === 'outdated' || !standing.current) this.#settled = false
      if (!may && standing.kind === 'leaving') this.#wake(this.#options.now + lookAgainMs)
    }
    if (withoutRoom > 0) this.#problems.push(updateProblem(this.#usage, this.#job, withoutRoom))
  }

  #mayStop(standing: Leaver): boolean {
    if (standing.kind === 'leaving' && standing.forced) return true
    const held = this.#away + (standing.kind === 'outdated' ? this.#broken : 0)
    return held < this.#job.spec.update.parallel
  }

  /** Copies that are fine and only lack the newest version's number. */
  #keepOthers(): void {
    const stopped = new Set(this.#moves.map((move) => move.slot))
    for (const { index, standing } of this.#entries) {
      const current = standing.kind === 'current' || (standing.kind === 'leaving' && standing.current)
      if (!current || stopped.has(index) || standing.allocation.version === this.#job.version) continue
      if (this.#isFull()) return
      this.#moves.push({ kind: 'keep', slot: index, expects: standing.allocation.id })
    }
  }

  #stop(slot: number, { id }: Allocation, cause: StopMove['cause'], reason: string): void {
    if (!this.#isFull()) this.#moves.push({ kind: 'stop', slot, expects: id, cause, reason })
  }

  /** No more moves in this plan: the next one goes on at once. */
  #isFull(): boolean {
    if (this.#moves.length < (this.#options.limit ?? Number.POSITIVE_INFINITY)) return false
    this.#wake(this.#options.now)
    return true
  }

  #wake(at: number): void {
    this.#wakeAt = Math.min(at, this.#wakeAt ?? Number.POSITIVE_INFINITY)
  }
}

type Leaver = Extract<Standing, { kind: 'leaving' | 'outdated' }>

/** The forced first, then the unhealthy, then those that must leave their node. */
function leavers(entries: readonly Entry[]): { index: number; standing: Leaver }[] {
  return entries
    .flatMap(({ index, standing }) =>
      standing.kind === 'leaving' || standing.kind === 'outdated' ? [{ index, standing }] : [],
    )
    .sort((a, b) => urgency(a.standing) - urgency(b.standing))
}

function urgency(standing: Leaver): number {
  const forced = standing.kind === 'leaving' && standing.forced ? 0 : 4
  return forced + (standing.allocation.healthy ? 2 : 0) + (standing.kind === 'leaving' ? 0 : 1)
}
