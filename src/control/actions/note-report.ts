import { backoff } from '../../kit/backoff.ts'
import type { Random } from '../../kit/random.ts'
import { type Allocation, type AllocationStatus, isTerminal, nextAllocationPhases } from '../../model/allocation.ts'
import type { NodeId } from '../../model/ids.ts'
import { type Job, type Slot, slotKey } from '../../model/records.ts'
import type { Tx } from '../../store/store.ts'
import type { AgentEvent } from '../../wire/messages.ts'
import type { Control } from '../control.ts'
import { addEvent, markDirty } from '../marks.ts'

export interface Report {
  node: NodeId
  /** Of the session that brought the report; a stale session's words do not count. */
  epoch: number
  statuses: readonly AllocationStatus[]
  events: readonly AgentEvent[]
}

/**
 * Takes in what an agent says of its allocations. Phases only move forward, and an agent may speak of nothing but what
 * is assigned to it. The end of an allocation commits with its consequences: the slot's history, when it may be tried
 * again, and the mark that the job needs planning.
 */
export async function noteReport(control: Control, report: Report): Promise<void> {
  await control.store.write((tx) => {
    const node = tx.get('nodes', report.node)
    if (!node || node.epoch !== report.epoch) return
    for (const status of report.statuses) noteStatus(tx, control.random, report.node, status)
    for (const event of report.events) noteEvent(tx, report.node, event)
  })
}

function noteStatus(tx: Tx, random: Random, node: NodeId, status: AllocationStatus): void {
  const before = tx.get('allocations', status.id)
  if (!before || before.node !== node || isTerminal(before.phase)) return
  if (status.phase !== before.phase && !nextAllocationPhases[before.phase].includes(status.phase)) return
  const healthy = status.healthy && status.phase === 'running'
  const after: Allocation = {
    ...before,
    phase: status.phase,
    healthy,
    tasks: status.tasks,
    changedAt: tx.now,
    ...(status.message === undefined ? {} : { message: status.message }),
    ...(healthy && !before.healthy ? { healthyAt: tx.now } : {}),
  }
  tx.put('allocations', after)
  const job = tx.get('jobs', after.job)
  if (!job) return
  if (isTerminal(after.phase)) noteEnd(tx, random, job, after)
  else if (healthy !== before.healthy && job.settled !== job.version)
    markDirty(tx, job.name, 'a copy changed its health')
}

function noteEnd(tx: Tx, random: Random, job: Job, ended: Allocation): void {
  const slot = tx.get('slots', slotKey(ended.job, ended.slot))
  if (slot?.allocation === ended.id) tx.put('slots', slotAfter(slot, ended, job, tx.now, random))
  const settled = ended.phase === 'complete' && job.spec.type === 'batch'
  if (!settled && !job.stopped) markDirty(tx, job.name, `allocation ${ended.id} ended as ${ended.phase}`)
  if (ended.phase === 'failed') {
    addEvent(tx, {
      level: 'error',
      kind: 'allocation.failed',
      job: ended.job,
      allocation: ended.id,
      node: ended.node,
      message: ended.message ?? `copy ${ended.slot} failed`,
    })
  }
}

function slotAfter(slot: Slot, ended: Allocation, job: Job, now: number, random: Random): Slot {
  if (ended.phase === 'complete') return { ...slot, failures: [], failed: 0, notBefore: 0, completedRound: job.round }
  if (ended.phase !== 'failed') return slot
  // A copy that had been well for longer than the longest pause starts over with short pauses.
  const wasWell = ended.healthyAt !== undefined && now - ended.healthyAt > job.spec.reschedule.maxDelay
  const failures = [
    ...(wasWell ? [] : slot.failures),
    { allocation: ended.id, node: ended.node, at: now, message: ended.message ?? 'failed' },
  ].slice(-10)
  const failed = (wasWell ? 0 : slot.failed) + 1
  const { delay, maxDelay } = job.spec.reschedule
  const pause = delay === 0 ? 0 : backoff(failed, { baseMs: delay, maxMs: maxDelay, random })
  return { ...slot, failures, failed, notBefore: now + Math.round(pause) }
}

function noteEvent(tx: Tx, node: NodeId, event: AgentEvent): void {
  const allocation = event.allocation ? tx.get('allocations', event.allocation) : undefined
  if (event.allocation && allocation?.node !== node) return
  addEvent(tx, {
    at: event.at,
    level: event.level,
    kind: event.kind,
    message: event.message,
    node,
    ...(allocation ? { job: allocation.job, allocation: allocation.id } : {}),
    ...(event.task ? { task: event.task } : {}),
  })
}
