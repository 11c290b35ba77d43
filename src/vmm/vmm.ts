import type { MachineShape } from '../model/sandbox.ts'

/**
 * The seam to a program that runs virtual machines. It knows nothing of chunks, templates and networks: it is given a disk
 * as a socket, memory as a file, a network backend, and gives a process with a way into the guest.
 */
export interface Vmm {
  readonly name: 'qemu' | 'firecracker'
  /** What it can do here, found out by trying; asked once and kept. */
  facts(): Promise<VmmFacts>
  /** Starts a machine from nothing. Its memory is shared with `memory.path`, so that the file is the memory. */
  boot(options: BootOptions): Promise<Vm>
  /** A process that waits to be given a snapshot of this shape; with `memory` also of this template. */
  warm(options: WarmOptions): Promise<WarmVm>
  /** Gives a snapshot to a waiting process, or to a new one. Leaves the machine stopped: `resume` it. */
  restore(options: RestoreOptions): Promise<Vm>
  /** Finds the machine in a directory that an earlier agent started it in; undefined when it is gone. */
  adopt(directory: string): Promise<Vm | undefined>
  /** Ends whatever is left in a directory. Idempotent. */
  remove(directory: string): Promise<void>
}

export interface VmmFacts {
  healthy: boolean
  /** When not healthy: why, and what to install, one sentence each. */
  reason?: string
  remedy?: string
  version: string
  arch: 'amd64' | 'arm64'
  /** `kvm` only where a machine was seen to boot with it. */
  accelerator: 'kvm' | 'tcg' | 'hvf'
  /** Must be equal between the one that saved a snapshot and the one that loads it. */
  compat: string
  can: VmmAbilities
}

export interface VmmAbilities {
  /** Device state without memory, also of a clone. */
  saveDevices: boolean
  /** The device state of a clone has all of its memory inside: none of it need be kept or put in place beside that. */
  savesMemory: boolean
  /** Networks that it can be given. */
  networks: readonly NetworkBackend['kind'][]
  /** A process that waits can be given any network; otherwise only where it was started for. */
  networkLater: boolean
  /** A process that waits becomes the machine; otherwise another is started in its place. */
  warm: boolean
  /** A snapshot taken while the machine lives on. */
  liveSnapshot: boolean
  /** Memory of two files, one over the other; otherwise changed pages are put in place by `beforeLoad`. */
  layeredMemory: boolean
}

/** Of a VMM that does not work here. */
export const noAbilities: VmmAbilities = {
  saveDevices: false,
  savesMemory: false,
  networks: [],
  networkLater: false,
  warm: false,
  liveSnapshot: false,
  layeredMemory: false,
}

/** What the guest's network card leads to. Templates are built with `none`: every other fits a snapshot of it. */
export type NetworkBackend =
  | { kind: 'none' }
  /** User-mode network of the VMM; nothing but what is forwarded is reachable when `restrict` is set. */
  | { kind: 'user'; restrict: boolean }
  /** A tap device, in a network namespace when named. */
  | { kind: 'tap'; device: string; namespace?: string }
  /** A Unix stream socket that carries frames, such as passt's. */
  | { kind: 'stream'; socket: string }

interface Placed {
  /** For sockets, logs and notes; absolute, short (socket paths are cut at 108 bytes), exists, owned by us. */
  directory: string
  machine: MachineShape
  signal: AbortSignal
}

export interface BootOptions extends Placed {
  kernel: string
  initrd: string
  /** Appended to the kernel's command line. */
  cmdline?: string
  memory: { path: string }
  /** NBD on a Unix socket. */
  disk: { socket: string }
  network: NetworkBackend
}

export interface MemoryImage {
  path: string
  /** It is fetched as it is touched, so nothing of it should be read ahead. */
  isLazy?: boolean
  /** A file of pages that lie over the image, with their list at the same path and `.runs`; in the same file system. */
  over?: string
}

export interface WarmOptions extends Placed {
  /** Where its network will be: a process cannot change its namespace later. */
  network?: NetworkBackend
  memory?: MemoryImage
}

export interface RestoreOptions extends Placed {
  /** Mapped privately: the file is never written to. */
  memory: MemoryImage
  /** File with the device state. */
  devices: string
  disk: { socket: string }
  network: NetworkBackend
  /** Taken over when given. */
  warm?: WarmVm
  /** Called when memory is mapped and before the devices are loaded, to put changed pages in place. */
  beforeLoad?: (pid: number) => Promise<void>
}

/** Disposing ends it. */
export interface WarmVm extends AsyncDisposable {
  readonly pid: number
  readonly directory: string
  /** Whether it was started on a memory image. */
  readonly memory: string | undefined
  readonly exited: Promise<void>
}

/** Our grip on one machine. Disposing lets go; only `kill` ends it. */
export interface Vm extends AsyncDisposable {
  readonly pid: number
  readonly directory: string
  /** Unix socket of the guest agent's channel. */
  readonly channel: string
  /** Where set: sent first on every connection to the channel, which answers with one line before all else. */
  readonly opening?: string
  /** The guest's console so far, for people: a file. */
  readonly console: string
  /** Settles when the process has ended; never rejects. */
  readonly exited: Promise<{ reason: string }>
  /** Stops the guest between two instructions; disk requests under way are finished first. */
  stop(): Promise<void>
  resume(): Promise<void>
  /** Writes the devices' state to a file; the machine is stopped and may go on afterwards. */
  saveDevices(file: string): Promise<void>
  kill(): Promise<void>
}
