import { isDeepStrictEqual } from 'node:util'
import { Fault } from '../../model/fault.ts'
import type { JobSpec } from '../../model/job.ts'
import type { Job } from '../../model/records.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'
import { addAudit, addEvent, markDirty } from '../marks.ts'

export interface ApplyOptions {
  by: string
  /** Refuse unless the job is at this version; 0: unless it does not exist. */
  expectVersion?: number | undefined
}

export interface Applied {
  job: Job
  /** False: the stored spec was the same already, and the job was not stopped. */
  changed: boolean
}

/** Makes `spec` what is wanted of its job. Applying the same spec twice changes nothing. */
export async function applyJob(
  control: Control,
  spec: JobSpec,
  options: ApplyOptions,
): Promise<Applied & { index: number }> {
  const { result, index } = await control.store.write((tx) => {
    const applied = putSpec(tx, spec, options)
    if (applied.changed)
      addAudit(tx, { by: options.by, action: 'job.apply', subject: `${spec.name}@${applied.job.version}` })
    return applied
  })
  return { ...result, index }
}

export function putSpec(tx: Tx, spec: JobSpec, { by, expectVersion }: ApplyOptions): Applied {
  const current = tx.get('jobs', spec.name)
  if (expectVersion !== undefined && expectVersion !== (current?.version ?? 0)) {
    throw new Fault(
      'conflict',
      `job "${spec.name}" is at version ${current?.version ?? 0}, not ${expectVersion}; somebody changed it since you looked: read it again and re-apply`,
    )
  }
  const job = nextJob(current, spec, tx.now)
  if (current && !job) return { job: current, changed: false }
  if (!job) throw new Error('a new job always differs from none')
  tx.put('jobs', job)
  tx.put('jobVersions', { job: spec.name, version: job.version, spec, at: tx.now, by })
  for (const slot of current ? tx.by('slotsByJob', spec.name) : []) {
    // A new version gets a fresh start: old failures say nothing about it.
    if (slot.failed > 0) tx.put('slots', { ...slot, failures: [], failed: 0, notBefore: 0 })
  }
  markDirty(tx, spec.name, current ? 'the job changed' : 'the job is new')
  addEvent(tx, {
    level: 'info',
    kind: 'job.applied',
    job: spec.name,
    message: current
      ? `version ${job.version} of "${spec.name}" was applied by ${by}`
      : `"${spec.name}" was created by ${by}`,
  })
  return { job, changed: true }
}

/** The job as applying the spec would make it; undefined when that would change nothing. */
export function nextJob(current: Job | undefined, spec: JobSpec, now: number): Job | undefined {
  if (current && current.spec.type !== spec.type) {
    throw new Fault(
      'conflict',
      `job "${spec.name}" is a ${current.spec.type} job and cannot become a ${spec.type} job; stop and purge it first, or use another name`,
    )
  }
  if (current && !current.stopped && isDeepStrictEqual(current.spec, spec)) return undefined
  const version = (current?.version ?? 0) + 1
  return {
    name: spec.name,
    version,
    spec,
    stopped: false,
    createdAt: current?.createdAt ?? now,
    changedAt: now,
    // A batch job that is applied again is meant to run again.
    round: (current?.round ?? 0) + 1,
    blocked: '',
    settled: current?.settled ?? version,
  }
}
