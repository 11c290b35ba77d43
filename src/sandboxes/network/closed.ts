import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { NetworkBackend } from '../../vmm/vmm.ts'
import type { SandboxLink, SandboxNetwork } from '../network.ts'
import { openDenials } from './denials.ts'

/**
 * Networks that lead nowhere. `none` gives the VM no way to send anything; `user` gives it the VMM's own closed network,
 * where it sees a card and a gateway and nothing else. Neither keeps anything, so there is nothing to reclaim.
 */
export function openNoNetwork({ clock, why }: { clock: Clock; why?: string }): SandboxNetwork {
  return closed('none', { kind: 'none' }, clock, why ?? 'this node gives sandboxes no network')
}

/** What is left where neither namespaces nor anything like them can be made. */
export function openRestrictedNetwork({ clock, why }: { clock: Clock; why: string }): SandboxNetwork {
  return closed('user', { kind: 'user', restrict: true }, clock, why)
}

function closed(name: 'none' | 'user', backend: NetworkBackend, clock: Clock, why: string): SandboxNetwork {
  const links = new Map<string, SandboxLink>()
  const enter = (id: string): SandboxLink => {
    const denials = openDenials(clock)
    const link: SandboxLink = {
      backend,
      identity: name === 'none' ? null : identityInUserNetwork,
      denials,
      allow: async (egress) => {
        if (egress.mode === 'deny' || (egress.mode === 'list' && egress.cidrs.length + egress.domains.length === 0))
          return
        throw new Fault('unavailable', `the sandbox ${id} can reach nothing: ${why}`)
      },
      close: async () => {
        denials.end()
        links.delete(id)
      },
    }
    links.set(id, link)
    return link
  }
  return {
    name,
    reclaim: async () => {},
    open: async (id) => {
      if (links.has(id)) throw new Fault('conflict', `the sandbox ${id} has a place on the network already`)
      return enter(id)
    },
    adopt: async (id) => links.get(id) ?? enter(id),
  }
}

/** The addresses that QEMU's own network expects. */
const identityInUserNetwork = {
  mac: '02:fc:00:00:00:05',
  address: '10.0.2.15',
  prefix: 24,
  gateway: '10.0.2.2',
  nameservers: [],
}
