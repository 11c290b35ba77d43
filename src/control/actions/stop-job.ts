import { isLive } from '../../model/allocation.ts'
import { Fault } from '../../model/fault.ts'
import { versionKey } from '../../model/records.ts'
import type { Control } from '../control.ts'
import { findJob } from '../find.ts'
import { addAudit, addEvent, markDirty } from '../marks.ts'

/** Wants the job zero times; its history stays. Stopping a stopped job changes nothing. */
export async function stopJob(control: Control, name: string, { by }: { by: string }): Promise<{ index: number }> {
  return control.store.write((tx) => {
    const job = findJob(tx, name)
    if (job.stopped) return
    tx.put('jobs', { ...job, stopped: true, blocked: '', changedAt: tx.now })
    markDirty(tx, name, 'the job was stopped')
    addEvent(tx, { level: 'info', kind: 'job.stopped', job: name, message: `"${name}" was stopped by ${by}` })
    addAudit(tx, { by, action: 'job.stop', subject: name })
  })
}

/** Forgets a stopped job with its versions, slots and allocations; refused while anything of it is still live. */
export async function purgeJob(control: Control, name: string, { by }: { by: string }): Promise<{ index: number }> {
  return control.store.write((tx) => {
    const job = findJob(tx, name)
    if (!job.stopped)
      throw new Fault('conflict', `job "${name}" is not stopped; "tutti stop --purge ${name}" stops it first`)
    for (const allocation of tx.by('allocationsByJob', name)) {
      if (isLive(allocation)) {
        throw new Fault(
          'conflict',
          `allocation ${allocation.id} of job "${name}" is still ${allocation.phase}; purge it once that has ended`,
        )
      }
    }
    for (const allocation of [...tx.by('allocationsByJob', name)]) tx.delete('allocations', allocation.id)
    for (const slot of [...tx.by('slotsByJob', name)]) tx.delete('slots', `${name}/${slot.index}`)
    for (const version of [...tx.by('versionsByJob', name)]) tx.delete('jobVersions', versionKey(name, version.version))
    for (const timer of [...tx.by('timersByJob', name)]) tx.delete('timers', timer.id)
    for (const event of [...tx.by('eventsByJob', name)]) tx.delete('events', event.id)
    tx.delete('dirty', name)
    tx.delete('jobs', name)
    addAudit(tx, { by, action: 'job.purge', subject: name })
  })
}
