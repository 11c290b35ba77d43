import type { GuestIdentity } from '../guest/channel.ts'
import type { Live } from './live.ts'
import type { Parts } from './parts.ts'

export interface IdentifyOptions {
  hostname: string
  machineId: string
  /** A new machine, not a sandbox that goes on. */
  fresh: boolean
  user: string
  cwd: string
  signal: AbortSignal
}

/**
 * Tells a guest who it is, and only then lets its workload go on: new entropy, the right time, its own name. Two VMs of
 * one snapshot share nothing that tells them apart until this has happened.
 */
export async function identify(parts: Parts, live: Live, options: IdentifyOptions): Promise<void> {
  const { hostname, machineId, fresh, user, cwd, signal } = options
  const identity: GuestIdentity = {
    generation: Buffer.from(parts.random.bytes(16)).toString('hex'),
    entropy: parts.random.bytes(64),
    now: parts.clock.now(),
    hostname,
    machineId,
    // Given with each command instead, so that it never lies in the guest agent's memory when a snapshot is taken.
    env: {},
    network: live.link.identity,
    fresh,
    user,
    cwd,
  }
  await live.channel.identify(identity, { signal })
  await live.channel.thaw({ signal })
}

export function newMachineId(parts: Pick<Parts, 'random'>): string {
  return Buffer.from(parts.random.bytes(16)).toString('hex')
}
