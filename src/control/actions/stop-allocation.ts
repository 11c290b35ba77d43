import { isLive } from '../../model/allocation.ts'
import type { Control } from '../control.ts'
import { findAllocation } from '../find.ts'
import { addAudit, addEvent } from '../marks.ts'

/** Ends one allocation; as long as the job wants the copy, its slot gets a new one. */
export async function stopAllocation(control: Control, id: string, { by }: { by: string }): Promise<{ index: number }> {
  return control.store.write((tx) => {
    const allocation = findAllocation(tx, id)
    if (!isLive(allocation) || allocation.desired === 'stop') return
    tx.put('allocations', { ...allocation, desired: 'stop', reason: `stopped by ${by}`, changedAt: tx.now })
    addEvent(tx, {
      level: 'info',
      kind: 'allocation.stopping',
      job: allocation.job,
      allocation: allocation.id,
      message: `a stop was asked for by ${by}`,
    })
    addAudit(tx, { by, action: 'allocation.stop', subject: allocation.id })
  })
}
