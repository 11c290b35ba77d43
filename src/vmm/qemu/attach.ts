import type { NetworkBackend } from '../vmm.ts'
import type { Qmp } from './qmp.ts'

/**
 * Leads the disk, which began on nothing, to its server. A server that goes away for up to 30 s goes unnoticed in the guest: its
 * requests wait.
 */
export async function attachDisk(qmp: Qmp, socket: string, { signal }: { signal: AbortSignal }): Promise<void> {
  const server = { type: 'unix', path: socket }
  const node = { driver: 'nbd', 'node-name': 'server', server, 'reconnect-delay': 30, discard: 'unmap' }
  const disk = { driver: 'raw', 'node-name': 'disk', file: 'server', discard: 'unmap', 'detect-zeroes': 'unmap' }
  // Asked at once, done in order; when one is refused so are those after it, and the first refusal is the reason.
  await Promise.all([
    qmp.execute('blockdev-add', node, { signal }),
    qmp.execute('blockdev-reopen', { options: [disk] }, { signal }),
    qmp.execute('blockdev-del', { 'node-name': 'nothing' }, { signal }),
  ])
}

/**
 * The card's other end is always the same port of a hub inside QEMU, since a saved card remembers traits of what it was
 * plugged into. What the sandbox is given is plugged into that hub; `tap` is the name of a descriptor that was handed over.
 */
export async function attachNetwork(
  qmp: Qmp,
  network: NetworkBackend,
  options: { signal: AbortSignal; tap?: string | undefined },
): Promise<void> {
  if (network.kind === 'none') return
  const { signal, tap } = options
  const world = tap === undefined ? backend(network) : { type: 'tap', fd: tap }
  await qmp.execute('netdev_add', { id: 'world', ...world }, { signal })
  await qmp.execute('netdev_add', { id: 'plug', type: 'hubport', hubid: 0, netdev: 'world' }, { signal })
}

function backend(network: Exclude<NetworkBackend, { kind: 'none' }>): Record<string, unknown> {
  switch (network.kind) {
    case 'user':
      return { type: 'user', restrict: network.restrict }
    case 'tap':
      return { type: 'tap', ifname: network.device, script: 'no', downscript: 'no', vnet_hdr: false }
    case 'stream':
      return { type: 'stream', server: false, addr: { type: 'unix', path: network.socket } }
  }
}
