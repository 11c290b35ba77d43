import type { GuestIdentity } from '../channel.ts'
import type { encodeFields } from './fields.ts'

/** Who the guest is to be, in one message. */
export function identityFields(identity: GuestIdentity): Parameters<typeof encodeFields>[0] {
  const { network } = identity
  return {
    generation: identity.generation,
    entropy: identity.entropy,
    time: identity.now,
    hostname: identity.hostname,
    machineId: identity.machineId,
    env: Object.entries(identity.env).map(([name, value]) => `${name}=${value}`),
    fresh: identity.fresh,
    user: identity.user,
    cwd: identity.cwd,
    ...(network && {
      mac: network.mac,
      address: network.address,
      prefix: network.prefix,
      gateway: network.gateway,
      nameserver: network.nameservers,
    }),
  }
}
