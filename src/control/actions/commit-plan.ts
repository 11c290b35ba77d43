import { type Allocation, isLive } from '../../model/allocation.ts'
import type { AllocationId, NodeId } from '../../model/ids.ts'
import { isOpen } from '../../model/node.ts'
import { type Dirty, type Job, type Slot, slotKey } from '../../model/records.ts'
import { askOf, fit, type NodeUsed, withAllocation } from '../../placement/fit.ts'
import type { Move, PlaceMove, Plan } from '../../placement/move.ts'
import type { Tx } from '../../store/store.ts'
import { type Control, newId } from '../control.ts'
import { addEvent, markDirty } from '../marks.ts'
import { usedOf } from '../usage.ts'

/** A plan, the mark that asked for it, and the id that each placement will have. */
export interface PlanToCommit {
  plan: Plan
  /** The mark as it was when planning began; null when nothing was marked. */
  mark: Dirty | null
  /** By slot. */
  ids: ReadonlyMap<number, AllocationId>
}

/**
 * Commits plans optimistically: each move is checked against the truth and commits whole or not at all. What did not
 * hold any more leaves its job marked, to be planned again on the newer state.
 * Resolves with the allocations that came into being.
 */
export async function commitPlans(
  control: Control,
  plans: readonly PlanToCommit[],
): Promise<ReadonlySet<AllocationId>> {
  const { result } = await control.store.write((tx) => {
    const check = new FitCheck(tx)
    const placed = new Set<AllocationId>()
    for (const { plan, mark, ids } of plans) {
      const job = tx.get('jobs', plan.job)
      if (!job || job.version !== plan.version) continue
      const refused = plan.moves.filter((move) => !commitMove(tx, check, job, move, ids, placed))
      concludePlan(tx, job, plan, mark)
      if (refused.length > 0) markDirty(tx, job.name, 'the cluster changed while it was planned')
    }
    return placed
  })
  return result
}

/** Fresh ids for the placements of a plan. */
export function idsFor(control: Pick<Control, 'random'>, plan: Plan): ReadonlyMap<number, AllocationId> {
  const ids = new Map<number, AllocationId>()
  for (const move of plan.moves) if (move.kind === 'place') ids.set(move.slot, newId(control) as AllocationId)
  return ids
}

function commitMove(
  tx: Tx,
  check: FitCheck,
  job: Job,
  move: Move,
  ids: PlanToCommit['ids'],
  placed: Set<AllocationId>,
): boolean {
  const slot = tx.get('slots', slotKey(job.name, move.slot))
  if ((slot?.allocation ?? null) !== move.expects) return false
  const current = slot?.allocation ? tx.get('allocations', slot.allocation) : undefined
  if (move.kind === 'place') {
    const id = ids.get(move.slot)
    if ((current && isLive(current)) || job.stopped || id === undefined) return false
    if (!check.take(move, job, id)) return false
    tx.put('allocations', newAllocation(tx.now, job, move, id))
    tx.put('slots', filledSlot(slot, job, move.slot, id))
    placed.add(id)
    return true
  }
  if (!current || !isLive(current)) return false
  if (move.kind === 'keep') tx.put('allocations', { ...current, version: job.version, changedAt: tx.now })
  else if (current.desired === 'run')
    tx.put('allocations', { ...current, desired: 'stop', reason: move.reason, changedAt: tx.now })
  return true
}

function newAllocation(now: number, job: Job, move: PlaceMove, id: AllocationId): Allocation {
  return {
    id,
    job: job.name,
    version: job.version,
    slot: move.slot,
    node: move.node,
    generation: 0,
    desired: 'run',
    ports: move.ports,
    phase: 'pending',
    healthy: false,
    tasks: {},
    createdAt: now,
    changedAt: now,
  }
}

function filledSlot(slot: Slot | undefined, job: Job, index: number, id: AllocationId): Slot {
  const empty: Slot = {
    job: job.name,
    index,
    allocation: null,
    failures: [],
    failed: 0,
    notBefore: 0,
    completedRound: null,
  }
  return { ...(slot ?? empty), allocation: id }
}

/** The mark goes, unless it was renewed meanwhile; what keeps the job from being whole is written down. */
function concludePlan(tx: Tx, job: Job, plan: Plan, mark: Dirty | null): void {
  if (mark && tx.get('dirty', job.name) === mark) tx.delete('dirty', job.name)
  const settled = plan.moves.every((move) => move.kind === 'keep') && plan.settled ? job.version : job.settled
  if (job.blocked !== plan.blocked || job.settled !== settled) {
    tx.put('jobs', { ...job, blocked: plan.blocked, settled })
    if (plan.blocked !== '' && plan.blocked !== job.blocked) {
      addEvent(tx, { level: 'warning', kind: 'job.blocked', job: job.name, message: plan.blocked })
    }
  }
  const timer = `plan/${job.name}`
  const armed = tx.get('timers', timer)
  if (plan.wakeAt === null) {
    if (armed) tx.delete('timers', timer)
  } else if (armed?.at !== plan.wakeAt) {
    tx.put('timers', { id: timer, at: plan.wakeAt, job: job.name, reason: 'a pause is over' })
  }
}

/** Does a placement still fit? The same `fit` as in planning, on what the transaction sees, worked out once per node. */
class FitCheck {
  readonly #tx: Tx
  readonly #used = new Map<NodeId, NodeUsed>()

  constructor(tx: Tx) {
    this.#tx = tx
  }

  take(move: PlaceMove, job: Job, id: AllocationId): boolean {
    const node = this.#tx.get('nodes', move.node)
    if (!node || !isOpen(node)) return false
    const used = this.#used.get(move.node) ?? usedOf(this.#tx, move.node)
    this.#used.set(move.node, used)
    if (fit(node, used, askOf(job.spec), move.ports)) return false
    withAllocation(used, askOf(job.spec), { id, ports: move.ports })
    return true
  }
}
