import { Fault } from '../../model/fault.ts'
import type { TaskPlan } from '../driver.ts'

/** One sentence for each way that a start goes wrong, whichever runtime or engine tried it. */

export function startFault(plan: TaskPlan, complaint: string): Fault {
  const where = `task "${plan.task}" in image "${plan.spec.image}"`
  const program = /exec: "?([^":]*)"?:/.exec(complaint)?.[1]
  if (program !== undefined && /not found|no such file/.test(complaint))
    return new Fault('invalid', `cannot start ${where}: it has no program "${program}"`)
  if (program !== undefined && /permission denied|is a directory/.test(complaint))
    return new Fault('invalid', `cannot start ${where}: "${program}" may not be executed`)
  if (/no space left/.test(complaint)) return new Fault('exhausted', `cannot start ${where}: the disk is full`)
  const port = /(?:address already in use|port is already allocated)/.test(complaint)
  if (port) return new Fault('conflict', `cannot start ${where}: one of its ports is taken on this node`)
  return new Fault('unavailable', `cannot start ${where}: ${complaint || 'the runtime ended without a word'}`)
}

/** Why a command could not be run in a container that is up; undefined when the text tells of nothing of the kind. */
export function execFault(program: string | undefined, cwd: string | undefined, complaint: string): Fault | undefined {
  if (/chdir|cwd/.test(complaint)) return new Fault('invalid', `the container has no directory "${cwd}"`)
  if (/unable to find user|no matching entries in passwd/.test(complaint))
    return new Fault('invalid', `the container does not know that user: ${complaint.trim().slice(-200)}`)
  if (/executable file not found|no such file or directory/.test(complaint))
    return new Fault('invalid', `there is no program "${program}" in the container`)
  if (/permission denied|is a directory/.test(complaint))
    return new Fault('invalid', `"${program}" in the container may not be executed`)
  return undefined
}
