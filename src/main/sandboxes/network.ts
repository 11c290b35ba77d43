import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Random } from '../../kit/random.ts'
import { chooseNetwork } from '../../sandboxes/network/choose.ts'
import { openRestrictedNetwork } from '../../sandboxes/network/closed.ts'
import { openNamespaceNetwork } from '../../sandboxes/network/namespace/namespace.ts'
import { openUserNetwork } from '../../sandboxes/network/user/user.ts'
import type { SandboxNetwork } from '../../sandboxes/network.ts'

export interface OpenNetworkOptions {
  directory: string
  clock: Clock
  random: Random
  log: Log
}

/** The strongest network that this machine can give to sandboxes. */
export async function openNetwork({
  directory,
  clock,
  random,
  log,
}: OpenNetworkOptions): Promise<SandboxNetwork & AsyncDisposable> {
  const { kind, reason, remedy } = await chooseNetwork()
  if (reason !== undefined)
    log.info({ kind }, `the network of sandboxes is less than it could be: ${reason}; ${remedy}`)
  switch (kind) {
    case 'namespace':
      return openNamespaceNetwork({ directory, clock, random, log })
    case 'user':
      return openUserNetwork({ directory, clock, log })
    case 'restricted': {
      const closed = openRestrictedNetwork({ clock, why: reason ?? 'this node cannot filter what sandboxes send' })
      return Object.assign(closed, { [Symbol.asyncDispose]: async () => {} })
    }
    default:
      return kind satisfies never
  }
}
