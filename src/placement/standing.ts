import { type Allocation, isLive } from '../model/allocation.ts'
import { formatConstraint } from '../model/constraint.ts'
import { rescheduleAttempts } from '../model/job.ts'
import type { Job, Slot } from '../model/records.ts'
import { brokenConstraint } from './constraint.ts'
import { needsRestart } from './diff.ts'
import type { PlanView } from './view.ts'

/** How one slot stands to what its job wants: the first half of planning, one slot at a time. */
export type Standing =
  /** A live copy that is not wanted any more, because there are too many slots or the job is stopped. */
  | { kind: 'excess'; allocation: Allocation; reason: string }
  /** Not wanted and not there, or a batch copy that has ended well. */
  | { kind: 'done' }
  /** A live copy that was already asked to stop. */
  | { kind: 'stopping'; allocation: Allocation }
  /** Failed more often than the policy allows. */
  | { kind: 'exhausted' }
  /** To be placed, but not before a pause is over. */
  | { kind: 'pausing'; until: number }
  /** To be placed. */
  | { kind: 'vacant' }
  /** A live copy that cannot stay on its node. */
  | { kind: 'leaving'; allocation: Allocation; reason: string; forced: boolean; current: boolean }
  /** A live copy of an older version that cannot become one of the newest. */
  | { kind: 'outdated'; allocation: Allocation; changed: readonly string[] }
  /** A live copy that runs, or without a restart can run, the newest version. */
  | { kind: 'current'; allocation: Allocation }

/** A slot that is there or should be. */
export interface Entry {
  index: number
  slot: Slot | undefined
  /** What the slot points at, live or not. */
  newest: Allocation | undefined
  standing: Standing
}

/** Every slot of the job, by index. */
export function standings(view: PlanView, job: Job, now: number): Entry[] {
  const slots: (Slot | undefined)[] = Array.from({ length: job.stopped ? 0 : job.spec.count }, () => undefined)
  for (const slot of view.slots(job.name)) slots[slot.index] = slot
  const judge = new Judge(view, job, now)
  return Array.from(slots, (slot, index) => {
    const newest = slot?.allocation ? view.allocation(slot.allocation) : undefined
    return { index, slot, newest, standing: judge.standing(index, slot, newest) }
  })
}

class Judge {
  readonly #view: PlanView
  readonly #job: Job
  readonly #now: number
  readonly #changes = new Map<number, readonly string[]>()
  readonly #leaving = new Map<string, Leave | undefined>()

  constructor(view: PlanView, job: Job, now: number) {
    this.#view = view
    this.#job = job
    this.#now = now
  }

  standing(index: number, slot: Slot | undefined, newest: Allocation | undefined): Standing {
    const live = newest && isLive(newest) ? newest : undefined
    if (live?.desired === 'stop') return { kind: 'stopping', allocation: live }
    if (this.#job.stopped || index >= this.#job.spec.count) return live ? this.#excess(live) : { kind: 'done' }
    return live ? this.#live(live) : this.#empty(slot)
  }

  #excess(allocation: Allocation): Standing {
    const { name, stopped, spec } = this.#job
    const reason = stopped ? `job "${name}" was stopped` : `job "${name}" was scaled down to ${spec.count}`
    return { kind: 'excess', allocation, reason }
  }

  #live(allocation: Allocation): Standing {
    const changed = this.#changed(allocation.version)
    const leave = this.#leave(allocation)
    if (leave) return { kind: 'leaving', allocation, ...leave, current: changed.length === 0 }
    return changed.length > 0 ? { kind: 'outdated', allocation, changed } : { kind: 'current', allocation }
  }

  /** What a copy of this version would have to be restarted for. */
  #changed(version: number): readonly string[] {
    if (version === this.#job.version) return []
    let changed = this.#changes.get(version)
    if (!changed) {
      const spec = this.#view.spec(this.#job.name, version)
      changed = spec ? needsRestart(spec, this.#job.spec) : ['a version that is not kept any more']
      this.#changes.set(version, changed)
    }
    return changed
  }

  #leave({ node }: Allocation): Leave | undefined {
    if (!this.#leaving.has(node)) this.#leaving.set(node, leaveOf(this.#view, this.#job, node, this.#now))
    return this.#leaving.get(node)
  }

  #empty(slot: Slot | undefined): Standing {
    if (!slot) return { kind: 'vacant' }
    const { spec, round } = this.#job
    if (spec.type === 'batch' && slot.completedRound === round) return { kind: 'done' }
    if (slot.failed > rescheduleAttempts(spec)) return { kind: 'exhausted' }
    return slot.notBefore > this.#now ? { kind: 'pausing', until: slot.notBefore } : { kind: 'vacant' }
  }
}

interface Leave {
  reason: string
  /** At once, however many others are away. */
  forced: boolean
}

/** Must the job's copies leave that node? A batch copy may finish on a draining node as long as there is time. */
function leaveOf(view: PlanView, job: Job, id: Allocation['node'], now: number): Leave | undefined {
  const node = view.node(id)
  if (!node) return undefined
  if (node.drain) {
    const forced = node.drain.deadline !== null && now >= node.drain.deadline
    if (forced) return { reason: `node "${node.name}" is draining and its deadline has passed`, forced }
    if (job.spec.type === 'service') return { reason: `node "${node.name}" is draining`, forced }
  }
  const broken = node.facts ? brokenConstraint(job.spec, node) : undefined
  return (
    broken && { reason: `"${formatConstraint(broken)}" does not hold for node "${node.name}" any more`, forced: false }
  )
}
