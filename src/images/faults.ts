import { Fault } from '../model/fault.ts'

/** One sentence for each way that a pull goes wrong, whichever tool or engine tried it. */

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

const give = 'give "credentials" to the task, or "--registry-user" to "template build"'

export function pullFault({ image, registry, username, output, gist }: PullAttempt): Fault {
  const said = (pattern: RegExp) => pattern.test(output)
  if (said(/no space left on device/i))
    return new Fault('exhausted', `the disk is full: cannot pull image "${image}"; free space or evict images`)
  if (said(/unauthorized|authentication required|access denied|invalid username\/password|denied:/i)) {
    const refused = `registry ${registry} refused the credentials of user "${username}" for image "${image}"`
    const none = `image "${image}" needs credentials, or does not exist; ${give}`
    return new Fault('denied', username === undefined ? none : refused)
  }
  if (said(/manifest unknown|name unknown|not found|no such image/i))
    return new Fault('not_found', `image "${image}" does not exist; check its name and tag`)
  if (said(/toomanyrequests|too many requests/i))
    return new Fault('unavailable', `registry ${registry} limits pulls, "${image}" too; ${give}`)
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
