import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import type { Dirty, Job } from '../../model/records.ts'
import { plan } from '../../placement/plan.ts'
import type { Usage } from '../../placement/usage.ts'
import type { Change, Commit } from '../../store/store.ts'
import { commitPlans, idsFor, type PlanToCommit } from '../actions/commit-plan.ts'
import type { Control } from '../control.ts'
import { planView } from '../plan-view.ts'
import { currentUsage, noteUsage } from '../usage.ts'

/** Moves gathered before a commit: many small jobs share one, and a large one does not wait for others. */
const movesPerCommit = 2000
/** While jobs keep coming, a pass waits this long after the last: what gathers shares one commit and one message. */
const gatherMs = 5
/** Blocked jobs tried again after capacity came free, highest priority first, until this many in a row still do not fit. */
const blockedTries = 32

/**
 * Plans every job that is marked dirty, in order of priority and then age, and the blocked ones when capacity came
 * free. Nothing is remembered between passes but what can be worked out again from the store.
 */
export async function planJobs(control: Control, { signal }: { signal: AbortSignal }): Promise<void> {
  const planner = new Planner(control)
  const stop = control.store.subscribe((commit) => planner.follow(commit))
  signal.addEventListener('abort', stop, { once: true })
  await loop({
    clock: control.clock,
    wakeup: planner.wakeup,
    everyMs: 5000,
    signal,
    onError: (error) => control.log.error({ err: error }, 'a planning pass failed; it is tried again'),
    pass: () => planner.pass(signal),
  })
}

class Planner {
  readonly wakeup = new Wakeup()
  readonly #control: Control
  readonly #usage: Usage
  readonly #blocked = new Set<string>()
  #capacityCameFree = true
  #passedAt = Number.NEGATIVE_INFINITY

  constructor(control: Control) {
    this.#control = control
    this.#usage = currentUsage(control)
    for (const job of control.store.view.all('jobs')) if (job.blocked !== '') this.#blocked.add(job.name)
  }

  /** Keeps usage, the blocked set and the bell in step with what became durable. */
  follow(commit: Commit): void {
    for (const change of commit.changes) this.#note(change)
  }

  async pass(signal: AbortSignal): Promise<void> {
    const sinceLastMs = this.#control.clock.monotonic() - this.#passedAt
    if (sinceLastMs < gatherMs) await this.#control.clock.sleep(gatherMs - sinceLastMs, { signal })
    await this.#planAll(this.#marked())
    if (this.#capacityCameFree) await this.#retryBlocked()
    this.#passedAt = this.#control.clock.monotonic()
  }

  #note(change: Change): void {
    if (change.table === 'dirty' && change.row) this.wakeup.ring()
    else if (change.table === 'jobs') {
      if (change.row && change.row.blocked !== '' && !change.row.stopped) this.#blocked.add(change.key)
      else this.#blocked.delete(change.key)
    } else if (noteUsage(this.#usage, this.#control.store.view, change) === 'freed') this.#freed()
  }

  #freed(): void {
    this.#capacityCameFree = true
    if (this.#blocked.size > 0) this.wakeup.ring()
  }

  #marked(): { job: Job; mark: Dirty }[] {
    const { view } = this.#control.store
    const found: { job: Job; mark: Dirty }[] = []
    for (const mark of view.all('dirty')) {
      const job = view.get('jobs', mark.job)
      if (job) found.push({ job, mark })
    }
    return found.sort(
      (a, b) =>
        b.job.spec.priority - a.job.spec.priority || a.mark.since - b.mark.since || (a.job.name < b.job.name ? -1 : 1),
    )
  }

  async #planAll(marked: readonly { job: Job; mark: Dirty | null }[]): Promise<void> {
    let gathered: PlanToCommit[] = []
    let moves = 0
    for (const { job, mark } of marked) {
      const next = this.#plan(job, mark)
      gathered.push(next)
      moves += next.plan.moves.length + 1
      if (moves < movesPerCommit) continue
      await this.#commit(gathered)
      gathered = []
      moves = 0
    }
    if (gathered.length > 0) await this.#commit(gathered)
  }

  async #retryBlocked(): Promise<void> {
    this.#capacityCameFree = false
    const { view } = this.#control.store
    const jobs = [...this.#blocked]
      .map((name) => view.get('jobs', name))
      .filter((job) => job !== undefined)
      .sort((a, b) => b.spec.priority - a.spec.priority || a.changedAt - b.changedAt)
    let misses = 0
    for (const job of jobs) {
      if (misses >= blockedTries) return
      const next = this.#plan(job, view.get('dirty', job.name) ?? null)
      misses = next.plan.moves.length === 0 ? misses + 1 : 0
      if (next.plan.moves.length > 0 || next.plan.blocked !== job.blocked) await this.#commit([next])
    }
  }

  /** Decides, and counts what was decided as used until the commit has said what became of it. */
  #plan(job: Job, mark: Dirty | null): PlanToCommit {
    const { store, clock, random } = this.#control
    const made = plan(planView(store.view), this.#usage, job, {
      now: clock.now(),
      seed: Math.floor(random.fraction() * 2 ** 32),
    })
    const ids = idsFor(this.#control, made)
    for (const move of made.moves) {
      const id = move.kind === 'place' ? ids.get(move.slot) : undefined
      if (move.kind === 'place' && id) this.#usage.add({ id, node: move.node, ports: move.ports }, job.spec)
    }
    return { plan: made, mark, ids }
  }

  async #commit(plans: readonly PlanToCommit[]): Promise<void> {
    let placed: ReadonlySet<string> = new Set()
    try {
      placed = await commitPlans(this.#control, plans)
    } finally {
      for (const { plan, ids } of plans) {
        for (const move of plan.moves) {
          const id = move.kind === 'place' ? ids.get(move.slot) : undefined
          if (move.kind === 'place' && id && !placed.has(id)) this.#usage.remove({ id })
        }
      }
    }
  }
}
