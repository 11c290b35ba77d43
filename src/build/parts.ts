import type { BlockList } from 'node:net'
import type { BlockServer } from '../blocks/server/protocol.ts'
import type { GuestChannel } from '../guest/channel.ts'
import type { ImageStore } from '../images/store.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import type { SandboxNetwork } from '../sandboxes/network.ts'
import type { Vmm } from '../vmm/vmm.ts'
import type { Reachability } from './copy/reachable.ts'

/** What a build stands on; chosen by whoever starts it. */
export interface BuildParts {
  blocks: BlockServer
  vmm: Vmm
  images: Pick<ImageStore, 'obtain' | 'load'>
  /** The kernel that guests boot, and the first file system with the guest agent in it. */
  kernel(arch: 'amd64' | 'arm64'): Promise<{ kernel: string; initrd: string; cmdline?: string }>
  /** Opens the channel to the agent of a guest; `token` is that of the snapshot, absent after a boot. */
  connect(socket: string, options: { token?: string; signal: AbortSignal }): Promise<GuestChannel>
  /** What RUN reaches; without it steps have no network. Templates are saved without one. */
  network?: SandboxNetwork | undefined
  /** Which private addresses ADD may fetch from: as the node's owner lists them. */
  fetchFrom?: BlockList | undefined
  /** Instead of the node's own judgement, for tests. */
  reachability?: ((address: string) => Reachability) | undefined
  clock: Clock
  random: Random
  log: Log
  /** Where `RUN --mount=type=cache` keeps what is in it. */
  cachesDirectory: string
  /** For work in progress: sockets lie in it, so its path is short. */
  directory: string
}

/** Told as a build goes. */
export interface BuildProgress {
  /** Ms since the epoch. */
  at: number
  level: 'info' | 'output' | 'warn' | 'error'
  /** Which step: `image`, `2/5`, `start`, `save`. */
  step: string
  message: string
}
