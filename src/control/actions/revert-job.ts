import { Fault } from '../../model/fault.ts'
import { versionKey } from '../../model/records.ts'
import type { Control } from '../control.ts'
import { findJob } from '../find.ts'
import { addAudit } from '../marks.ts'
import { type Applied, putSpec } from './apply-job.ts'

/** Applies an earlier version's spec as a new version. Without `version`: the one before the current. */
export async function revertJob(
  control: Control,
  name: string,
  { by, version }: { by: string; version?: number | undefined },
): Promise<Applied & { index: number }> {
  const { result, index } = await control.store.write((tx) => {
    const job = findJob(tx, name)
    if (version === undefined && job.version === 1)
      throw new Fault('not_found', `job "${name}" has had one version only, so that there is none to revert to`)
    const target = version ?? job.version - 1
    const kept = tx.get('jobVersions', versionKey(name, target))
    if (!kept) {
      const known = [...tx.by('versionsByJob', name)].map((row) => row.version).sort((a, b) => a - b)
      throw new Fault('not_found', `job "${name}" has no version ${target} to revert to; kept are ${known.join(', ')}`)
    }
    const applied = putSpec(tx, kept.spec, { by })
    if (applied.changed) addAudit(tx, { by, action: 'job.revert', subject: `${name}@${target}` })
    return applied
  })
  return { ...result, index }
}
