import type { BlockServer } from '../blocks/server/protocol.ts'
import type { GuestChannel } from '../guest/channel.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import type { Vm, Vmm } from '../vmm/vmm.ts'
import type { SandboxNetwork } from './network.ts'

/** What the sandboxes of a node are made with; chosen in `main`. */
export interface Parts {
  blocks: BlockServer
  vmm: Vmm
  network: SandboxNetwork
  /** Opens the channel into a guest. */
  connect: (
    vm: Pick<Vm, 'channel' | 'opening'>,
    options: { token: string; signal: AbortSignal },
  ) => Promise<GuestChannel>
  /** What machines boot from that have no snapshot. */
  boot: { kernel: string; initrd: string }
  /** For everything of ours: records, sockets, logs. Short, since socket paths are cut at 108 bytes. */
  directory: string
  /** How many VMs may start at the same time; the number of cores. */
  starts: number
  /** Most VMs of one build that run ahead of demand, and most VMMs of one shape that wait for any snapshot; 0 for none. */
  ahead: { running: number; waiting: number }
  /** Bytes of memory that are free for more VMs right now. */
  freeMemory: () => number
  clock: Clock
  random: Random
  log: Log
}
