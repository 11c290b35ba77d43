import { isLive } from '../../model/allocation.ts'
import { Fault } from '../../model/fault.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'
import { findAllocation, findJob } from '../find.ts'
import { addAudit, addEvent, markDirty } from '../marks.ts'

/** Restarts every live copy in place; a batch job whose copies have ended runs again. */
export async function restartJob(
  control: Control,
  name: string,
  { by }: { by: string },
): Promise<{ index: number; restarted: number }> {
  const { index, result } = await control.store.write((tx) => {
    const job = findJob(tx, name)
    if (job.stopped) throw new Fault('conflict', `job "${name}" is stopped; apply it again to start it`)
    let restarted = 0
    for (const allocation of [...tx.by('allocationsByJob', name)]) {
      if (!isLive(allocation) || allocation.desired === 'stop') continue
      tx.put('allocations', { ...allocation, generation: allocation.generation + 1, changedAt: tx.now })
      restarted += 1
    }
    if (job.spec.type === 'batch') tx.put('jobs', { ...job, round: job.round + 1, changedAt: tx.now })
    resetFailures(tx, name)
    markDirty(tx, name, 'a restart was asked for')
    addEvent(tx, {
      level: 'info',
      kind: 'job.restarted',
      job: name,
      message: `a restart of "${name}" was asked for by ${by}`,
    })
    addAudit(tx, { by, action: 'job.restart', subject: name })
    return restarted
  })
  return { index, restarted: result }
}

/** Restarts the tasks of one live allocation in place. */
export async function restartAllocation(
  control: Control,
  id: string,
  { by }: { by: string },
): Promise<{ index: number }> {
  return control.store.write((tx) => {
    const allocation = findAllocation(tx, id)
    if (!isLive(allocation) || allocation.desired === 'stop') {
      throw new Fault(
        'conflict',
        `allocation ${allocation.id} is ${isLive(allocation) ? 'stopping' : allocation.phase} and cannot be restarted; its slot gets a new one by itself`,
      )
    }
    tx.put('allocations', { ...allocation, generation: allocation.generation + 1, changedAt: tx.now })
    addEvent(tx, {
      level: 'info',
      kind: 'allocation.restarted',
      job: allocation.job,
      allocation: allocation.id,
      message: `a restart was asked for by ${by}`,
    })
    addAudit(tx, { by, action: 'allocation.restart', subject: allocation.id })
  })
}

function resetFailures(tx: Tx, job: string): void {
  for (const slot of [...tx.by('slotsByJob', job)]) {
    if (slot.failed > 0) tx.put('slots', { ...slot, failures: [], failed: 0, notBefore: 0 })
  }
}
