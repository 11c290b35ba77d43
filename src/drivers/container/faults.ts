import { Fault } from '../../model/fault.ts'
import type { TaskPlan } from '../driver.ts'

/** One sentence for each way that a pull or a start goes wrong, whichever tool or engine tried it. */

export interface PullAttempt {
  /** The whole reference. */
  image: string
  registry: string
  /** User whose credentials were given. */
  username: string | undefined
  /** What the tool said, whole. */
  output: string
  /** The part of it that people need. */
  gist: string
}

export function pullFault({ image, registry, username, output, gist }: PullAttempt): Fault {
  const said = (pattern: RegExp) => pattern.test(output)
  if (said(/no space left on device/i))
    return new Fault('exhausted', `the disk is full: cannot pull image "${image}"; free space or evict images`)
  if (said(/unauthorized|authentication required|access denied|invalid username\/password|denied:/i)) {
    const refused = `registry ${registry} refused the credentials of user "${username}" for image "${image}"`
    const none = `image "${image}" needs credentials, or does not exist; give the task "credentials"`
    return new Fault('denied', username === undefined ? none : refused)
  }
  if (said(/manifest unknown|name unknown|not found|no such image/i))
    return new Fault('not_found', `image "${image}" does not exist; check its name and tag`)
  if (said(/toomanyrequests|too many requests/i))
    return new Fault('unavailable', `registry ${registry} limits pulls, "${image}" too; give the task "credentials"`)
  if (said(/no such host|refused|timeout|dial tcp|tls:|x509|EOF|connection reset|status code 5\d\d/i))
    return new Fault('unavailable', `cannot reach registry ${registry} to pull image "${image}": ${gist}`)
  return new Fault('unavailable', `cannot pull image "${image}": ${gist}`)
}

export function wrongArchitecture(image: string, offered: readonly string[], wanted: string): Fault {
  const offers = offered.length > 0 ? offered.join(', ') : 'other architectures'
  return new Fault('invalid', `image "${image}" is for ${offers}, and this node is ${wanted}`)
}

export function neverPulled(image: string): Fault {
  return new Fault('not_found', `image "${image}" is not on this node, and the task says never to pull it`)
}

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
