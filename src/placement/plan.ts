import type { Allocation } from '../model/allocation.ts'
import type { Job, Slot } from '../model/records.ts'
import { Candidates } from './candidates.ts'
import { hasRoom } from './fit.ts'
import { mix } from './mix.ts'
import type { Move, Plan } from './move.ts'
import { whyNowhere } from './nowhere.ts'
import { pickPorts } from './ports.ts'
import { failureCost, homeBonus, volumeBonus } from './rank.ts'
import { Judge, type Standing } from './standing.ts'
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

/** Failures of one job on one node within this long make the node the last choice. */
const faultyMs = 5 * 60_000
const faultyCount = 5
/** Health may change without the job being marked; a copy that waits for another's health looks again this often. */
const lookAgainMs = 2000

type Live = Extract<Standing, { kind: 'excess' | 'leaving' | 'outdated' }>

interface Entry {
  index: number
  slot: Slot | undefined
  standing: Standing
}

class Planning {
  readonly #view: PlanView
  readonly #usage: Usage
  readonly #job: Job
  readonly #options: PlanOptions
  readonly #moves: Move[] = []
  readonly #problems: string[] = []
  readonly #taken: (() => void)[] = []
  readonly #entries: Entry[]
  #candidates: Candidates | undefined
  #wakeAt: number | null = null
  /** Copies that are away or not yet well: they use up what `update.parallel` allows. */
  #away = 0
  /** Copies of the newest version that failed too often: they hold up an update, but not a drain. */
  #broken = 0
  #settled = true
  #later = 0
  #waitsForRoom = 0

  constructor(view: PlanView, usage: Usage, job: Job, options: PlanOptions) {
    this.#view = view
    this.#usage = usage
    this.#job = job
    this.#options = options
    this.#entries = judged(view, job, options.now)
  }

  run(): Plan {
    this.#stopExcess()
    this.#fillSlots()
    this.#waitForHealth()
    this.#makeWay()
    this.#keepOthers()
    return {
      job: this.#job.name,
      version: this.#job.version,
      moves: this.#moves,
      blocked: this.#problems.join('. '),
      settled: this.#settled,
      wakeAt: this.#wakeAt,
      later: this.#later,
    }
  }

  /** Gives back what was held for placements that are not committed yet. */
  restore(): void {
    for (const give of this.#taken.splice(0).reverse()) give()
  }

  #stopExcess(): void {
    for (const { index, standing } of this.#entries.toReversed()) {
      if (standing.kind === 'excess') this.#stop(index, standing, standing.reason)
      if (standing.kind === 'excess' || standing.kind === 'stopping') this.#settled = false
    }
  }

  #fillSlots(): void {
    let unplaced = 0
    for (const { index, slot, standing } of this.#entries) {
      if (standing.kind === 'vacant') {
        const outcome = this.#full() ? 'later' : this.#place(index, slot)
        if (outcome === 'nowhere') unplaced += 1
        if (outcome === 'placed' || this.#countsAsAway(slot)) this.#away += 1
      } else if (standing.kind === 'pausing') {
        this.#wake(standing.until)
        if (this.#countsAsAway(slot)) this.#away += 1
      } else if (standing.kind === 'exhausted') {
        if (this.#newestOf(slot)?.version === this.#job.version) this.#broken += 1
      } else continue
      this.#settled = false
    }
    const { name, spec } = this.#job
    if (unplaced > 0) {
      const copies = `${unplaced} of ${spec.count} ${spec.count === 1 ? 'copy' : 'copies'} unplaced`
      this.#problems.push(`no node can take "${name}" (${copies}): ${whyNowhere(this.#usage, spec)}`)
    }
    this.#reportExhausted()
  }

  /** A copy that is missing for want of room does not hold up the others, unless this update took it down. */
  #countsAsAway(slot: Slot | undefined): boolean {
    const newest = this.#newestOf(slot)
    return newest !== undefined && (newest.desired === 'stop' || newest.version === this.#job.version)
  }

  #waitForHealth(): void {
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

  /** What a drain lets be for now has to be looked at again when its deadline comes. */
  #heedDeadline(standing: Standing): void {
    const node = 'allocation' in standing ? this.#view.node(standing.allocation.node) : undefined
    const deadline = node?.drain?.deadline ?? null
    if (deadline !== null && deadline > this.#options.now) this.#wake(deadline)
  }

  /** Stops copies that must leave their node or their version, the unhealthy first. */
  #makeWay(): void {
    const { spec } = this.#job
    const leavers = this.#entries
      .filter(({ standing }) => standing.kind === 'leaving' || standing.kind === 'outdated')
      .sort((a, b) => urgency(a.standing) - urgency(b.standing))
    for (const { index, standing } of leavers) {
      if (standing.kind !== 'leaving' && standing.kind !== 'outdated') continue
      const forced = standing.kind === 'leaving' && standing.forced
      const broken = standing.kind === 'outdated' ? this.#broken : 0
      const allowed = forced || this.#away + broken < spec.update.parallel
      if (!allowed || this.#full() || (standing.kind === 'outdated' && !this.#canReplace(index, standing.allocation))) {
        this.#wait(standing)
        continue
      }
      this.#away += 1
      this.#settled = false
      this.#stop(index, standing, this.#reason(standing))
    }
    if (this.#waitsForRoom > 0) {
      this.#problems.push(
        `the update of "${this.#job.name}" waits (${this.#waitsForRoom} of ${spec.count} copies still run an older version, and the new one fits nowhere, not even in place of the old): ${whyNowhere(this.#usage, spec)}`,
      )
    }
  }

  #wait(standing: Standing): void {
    this.#later += 1
    if (standing.kind === 'leaving') this.#wake(this.#options.now + lookAgainMs)
    if (standing.kind !== 'leaving' || !standing.current) this.#settled = false
  }

  /** Would a copy of the new version find a place once this one is gone? Such a place is held for it. */
  #canReplace(index: number, { id }: Allocation): boolean {
    const held = this.#usage.heldBy(id)
    const candidates = this.#allCandidates()
    if (held && candidates.couldTake(held.row)) {
      this.#usage.give(held.row, held.ask, held.ports, id)
      const fits = hasRoom(this.#usage.room(held.row), candidates.ask)
      this.#usage.take(held.row, held.ask, held.ports, id)
      if (fits) return true
    }
    const row = candidates.best(new Map())
    if (row === undefined) {
      this.#waitsForRoom += 1
      return false
    }
    this.#hold(row, index)
    return true
  }

  /** Copies that are fine and only lack the newest version's number. */
  #keepOthers(): void {
    const stopped = new Set(this.#moves.map((move) => move.slot))
    for (const { index, standing } of this.#entries) {
      const current = standing.kind === 'current' || (standing.kind === 'leaving' && standing.current)
      if (!current || stopped.has(index) || standing.allocation.version === this.#job.version) continue
      if (this.#full()) return
      this.#moves.push({ kind: 'keep', slot: index, expects: standing.allocation.id })
    }
  }

  #place(index: number, slot: Slot | undefined): 'placed' | 'nowhere' {
    const row = this.#allCandidates().best(this.#adjustments(slot))
    const node = row === undefined ? undefined : this.#usage.node(row)
    if (row === undefined || !node) return 'nowhere'
    const ports = this.#hold(row, index)
    this.#moves.push({ kind: 'place', slot: index, expects: slot?.allocation ?? null, node: node.id, ports })
    return 'placed'
  }

  /** Counts a copy in until the plan is made, so that the next one sees the node as it will be. */
  #hold(row: number, index: number): Record<string, number> {
    const candidates = this.#allCandidates()
    const ports = pickPorts(this.#usage.room(row), candidates.ask, mix(this.#options.seed, index))
    const numbers = Object.values(ports)
    const holder = `planned/${index}`
    this.#usage.take(row, candidates.ask, numbers, holder)
    this.#taken.push(() => this.#usage.give(row, candidates.ask, numbers, holder))
    candidates.addCopy(row)
    return ports
  }

  /** What this slot's history adds to the cost of nodes. */
  #adjustments(slot: Slot | undefined): Map<number, number> {
    const adjustments = new Map<number, number>()
    const adjust = (node: Allocation['node'], extra: number) => {
      const row = this.#usage.row(node)
      if (row !== undefined) adjustments.set(row, (adjustments.get(row) ?? 0) + extra)
    }
    for (const { node } of slot?.failures ?? []) adjust(node, failureCost)
    const newest = this.#newestOf(slot)
    if (newest && Object.keys(this.#job.spec.volumes).length > 0) adjust(newest.node, -volumeBonus)
    else if (newest?.phase === 'stopped') adjust(newest.node, -homeBonus)
    return adjustments
  }

  #allCandidates(): Candidates {
    this.#candidates ??= new Candidates(this.#usage, {
      job: this.#job,
      seed: this.#options.seed,
      copies: this.#copies(),
      faulty: this.#faulty(),
    })
    return this.#candidates
  }

  /** Copies per row that are there to stay. */
  #copies(): Int32Array {
    const copies = new Int32Array(this.#usage.rows)
    for (const { standing } of this.#entries) {
      if (standing.kind !== 'current' && standing.kind !== 'outdated') continue
      const row = this.#usage.row(standing.allocation.node)
      if (row !== undefined) copies[row] = (copies[row] ?? 0) + 1
    }
    return copies
  }

  #faulty(): Set<number> {
    const counts = new Map<number, number>()
    const since = this.#options.now - faultyMs
    for (const { slot } of this.#entries) {
      for (const { node, at } of slot?.failures ?? []) {
        const row = at > since ? this.#usage.row(node) : undefined
        if (row !== undefined) counts.set(row, (counts.get(row) ?? 0) + 1)
      }
    }
    return new Set([...counts].filter(([, count]) => count >= faultyCount).map(([row]) => row))
  }

  #newestOf(slot: Slot | undefined): Allocation | undefined {
    return slot?.allocation ? this.#view.allocation(slot.allocation) : undefined
  }

  /** From when on the copy counts as well; infinity: nobody knows. */
  #wellAt({ healthy, healthyAt, changedAt }: Allocation): number {
    return healthy ? (healthyAt ?? changedAt) + this.#job.spec.update.healthyAfter : Number.POSITIVE_INFINITY
  }

  #reason(standing: Extract<Standing, { kind: 'leaving' | 'outdated' }>): string {
    if (standing.kind === 'leaving') return standing.reason
    const more = standing.changed.length > 3 ? ` and ${standing.changed.length - 3} more` : ''
    const changed = standing.changed.slice(0, 3).join(', ')
    return `version ${this.#job.version} of "${this.#job.name}" replaces it: ${changed}${more} changed`
  }

  #reportExhausted(): void {
    const exhausted = this.#entries.filter(({ standing }) => standing.kind === 'exhausted')
    const [first] = exhausted
    const last = first?.slot?.failures.at(-1)
    if (!first || !last) return
    const times = first.slot?.failures.length === 1 ? 'once' : `${first.slot?.failures.length} times`
    const others = exhausted.length > 1 ? ` (and ${exhausted.length - 1} more like it)` : ''
    this.#problems.push(
      `copy ${first.index} of "${this.#job.name}"${others} failed ${times}, at last with "${last.message}", and is not tried again; change the job and apply it`,
    )
  }

  #stop(slot: number, { kind, allocation }: Live, reason: string): void {
    if (!this.#full()) this.#moves.push({ kind: 'stop', slot, expects: allocation.id, cause: kind, reason })
  }

  /** No more moves in this plan: the next one goes on at once. */
  #full(): boolean {
    if (this.#moves.length < (this.#options.limit ?? Number.POSITIVE_INFINITY)) return false
    this.#wake(this.#options.now)
    return true
  }

  #wake(at: number): void {
    this.#wakeAt = Math.min(at, this.#wakeAt ?? Number.POSITIVE_INFINITY)
  }
}

/** Every slot that is or should be, by index. */
function judged(view: PlanView, job: Job, now: number): Entry[] {
  const slots: (Slot | undefined)[] = Array.from({ length: job.stopped ? 0 : job.spec.count }, () => undefined)
  for (const slot of view.slots(job.name)) slots[slot.index] = slot
  const judge = new Judge(view, job, now)
  return Array.from(slots, (slot, index) => ({ index, slot, standing: judge.standing(index, slot) }))
}

function urgency(standing: Standing): number {
  if (standing.kind !== 'leaving' && standing.kind !== 'outdated') return 0
  const forced = standing.kind === 'leaving' && standing.forced ? 0 : 4
  const unhealthy = standing.allocation.healthy ? 2 : 0
  return forced + unhealthy + (standing.kind === 'leaving' ? 0 : 1)
}
