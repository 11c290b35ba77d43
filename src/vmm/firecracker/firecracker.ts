import { closeSync } from 'node:fs'
import { chmod, chown, copyFile, rename, rm, stat } from 'node:fs/promises'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import { emptyFileFor } from '../isolation/given-files.ts'
import { type Isolation, isolationOnce } from '../isolation/isolation.ts'
import { namedNetwork } from '../isolation/lodging.ts'
import type { ProcessMark } from '../process-mark.ts'
import type { BootOptions, NetworkBackend, RestoreOptions, Vm, Vmm, WarmOptions, WarmVm } from '../vmm.ts'
import { mountDisk } from './disk.ts'
import { createFacts, type FirecrackerSettings, type Means } from './facts.ts'
import {
  adoptProcess,
  endProcesses,
  type FirecrackerProcess,
  filesOf,
  type GivenFile,
  relative,
  startProcess,
} from './process.ts'

export interface FirecrackerOptions extends FirecrackerSettings {
  clock: Clock
  log: Log
}

/** The port at which the guest agent listens on its virtual socket. */
export const agentPort = 1024

/**
 * Machines by Firecracker, where KVM boots. It differs from QEMU in what a snapshot is: it always writes memory with the
 * devices' state, and it loads both at once.
 */
export function createFirecracker(options: FirecrackerOptions): Vmm {
  return new Firecracker(options)
}

class Firecracker implements Vmm {
  readonly name = 'firecracker'
  readonly #clock: Clock
  readonly #isolated: () => Isolation | undefined
  readonly #facts: ReturnType<typeof createFacts>
  readonly #warm = new WeakMap<WarmVm, Waiting>()

  constructor(options: FirecrackerOptions) {
    this.#clock = options.clock
    this.#isolated = isolationOnce(options)
    this.#facts = createFacts(options, this.#isolated)
  }

  async facts() {
    return (await this.#facts()).facts
  }

  async boot(options: BootOptions): Promise<Vm> {
    const { directory, machine, memory, network, signal } = options
    const nic = nicOf(network)
    const files = [options.kernel, options.initrd].map((path) => ({ path, use: 'read' as const }))
    await this.#meansFor(machine)
    const disk = await this.#disk(options)
    const process = await this.#start({ directory, machine, memory: memory.path, network, signal, disk, files })
    return whole(process, async () => {
      const put = (path: string, body: object) => process.api.put(path, body, { signal })
      await put('/machine-config', { vcpu_count: machine.cpus, mem_size_mib: machine.memoryMiB })
      const boot_args = ['console=ttyS0 panic=-1 reboot=k quiet nowatchdog', options.cmdline ?? ''].join(' ').trim()
      const [kernel_image_path, initrd_path] = [process.nameOf(options.kernel), process.nameOf(options.initrd)]
      await put('/boot-source', { kernel_image_path, initrd_path, boot_args })
      await put('/drives/disk', {
        ...{ drive_id: 'disk', path_on_host: relative.disk, is_root_device: false, is_read_only: false },
        cache_type: 'Writeback',
      })
      if (nic) await put('/network-interfaces/nic', { guest_mac: '52:54:00:00:00:01', ...nic })
      await put('/vsock', { guest_cid: 3, uds_path: relative.channel })
      await put('/entropy', {})
      // Its socket for the guest is made when the machine is, and no guest has run by then.
      await put('/actions', { action_type: 'InstanceStart' })
      await process.closeDirectory()
      return machineOf(process)
    })
  }

  async warm({ directory, machine, memory, network, signal }: WarmOptions): Promise<WarmVm> {
    if (memory) await checkMemory(memory.path, machine)
    const process = await this.#start({ directory, machine, memory: null, network, signal, disk: null, files: [] })
    const warm: WarmVm = {
      pid: process.note.vmm.pid,
      directory,
      memory: memory?.path,
      exited: process.exited.then(() => {}),
      [Symbol.asyncDispose]: async () => {
        this.#warm.delete(warm)
        await process.kill()
        process.letGo()
        await this.remove(directory)
      },
    }
    this.#warm.set(warm, { process, machine, namespace: namespaceOf(network) })
    return warm
  }

  async restore(options: RestoreOptions): Promise<Vm> {
    const { machine, memory, devices, network, signal } = options
    await checkMemory(memory.path, machine)
    const nic = nicOf(network)
    const process = await this.#waiting(options)
    const { directory, api } = process
    return whole(process, async () => {
      const isIsolated = process.note.uid !== undefined
      if (!isIsolated) await copyFile(devices, filesOf(directory).devicesIn)
      const request = {
        snapshot_path: isIsolated ? process.nameOf(devices) : filesOf(directory).devicesIn,
        mem_backend: { backend_type: 'File', backend_path: process.nameOf(memory.path) },
        resume_vm: false,
        ...(nic ? { network_overrides: [nic] } : {}),
      }
      await api.put('/snapshot/load', request, { signal }).catch((error: unknown) => {
        throw refusal(error)
      })
      await process.closeDirectory()
      await rm(filesOf(directory).devicesIn, { force: true })
      // Its devices look at their queues in memory only when the machine goes on, so this is early enough.
      await options.beforeLoad?.(process.note.vmm.pid)
      return machineOf(process)
    })
  }

  async adopt(directory: string): Promise<Vm | undefined> {
    const process = await adoptProcess(directory, { clock: this.#clock, isolation: this.#isolated() })
    return process && machineOf(process)
  }

  async remove(directory: string): Promise<void> {
    await endProcesses(directory, { clock: this.#clock, isolation: this.#isolated() })
  }

  /** The waiting process that was handed over, if it fits; a new one otherwise. Its disk is in place. */
  async #waiting(options: RestoreOptions): Promise<FirecrackerProcess> {
    const { warm, directory, machine, memory, devices, network, signal } = options
    const given = warm && this.#warm.get(warm)
    if (warm && given) {
      this.#warm.delete(warm)
      const { process, namespace } = given
      const fits = warm.memory === undefined || warm.memory === memory.path
      if (fits && process.note.uid === undefined && namespace === namespaceOf(network))
        return whole(process, async () => {
          await process.holdDisk(await this.#disk(options))
          return process
        })
      await warm[Symbol.asyncDispose]()
    }
    await this.#meansFor(machine)
    const disk = await this.#disk(options)
    const files: GivenFile[] = [
      { path: memory.path, use: 'private memory' },
      { path: devices, use: 'read' },
    ]
    return this.#start({ directory, machine, memory: null, network, signal, disk, files })
  }

  #disk({ directory, disk, signal }: BootOptions | RestoreOptions): Promise<ProcessMark> {
    return mountDisk(directory, disk.socket, { clock: this.#clock, signal })
  }

  async #meansFor(machine: MachineShape): Promise<Means> {
    const { facts, means } = await this.#facts()
    if (means === undefined) throw new Fault('unavailable', `${facts.reason}; ${facts.remedy}`)
    if (machine.arch !== facts.arch)
      throw new Fault(
        'invalid',
        `a machine for ${machine.arch} cannot run on this node, which makes ${facts.arch} ones`,
      )
    return means
  }

  async #start({ machine, memory, network, disk, ...options }: StartRequest): Promise<FirecrackerProcess> {
    const { program, lodge } = await this.#meansFor(machine)
    const lodging = await lodge()
    const namespace = namespaceOf(network)
    const isTap = network?.kind === 'tap'
    // It opens its tap itself, and so has to be where that is.
    const there = lodging && namespace !== undefined ? namedNetwork(namespace) : undefined
    try {
      return await startProcess({
        ...{ ...options, program, clock: this.#clock, note: { disk, machine, memory } },
        lodging: lodging && isTap ? { ...lodging, network: there } : lodging,
        tap: isTap ? network.device : undefined,
        wrapper: namespace === undefined ? [] : ['ip', 'netns', 'exec', namespace],
      })
    } finally {
      if (there !== undefined) closeSync(there)
    }
  }
}

interface StartRequest {
  directory: string
  machine: MachineShape
  memory: string | null
  network: NetworkBackend | undefined
  disk: ProcessMark | null
  files: readonly GivenFile[]
  signal: AbortSignal
}

interface Waiting {
  process: FirecrackerProcess
  machine: MachineShape
  namespace: string | undefined
}

/** The grip on one machine. */
function machineOf(process: FirecrackerProcess): Vm {
  const { api, note, directory } = process
  const files = filesOf(directory)
  return {
    pid: note.vmm.pid,
    directory,
    channel: files.channel,
    opening: `CONNECT ${agentPort}\n`,
    console: files.console,
    exited: process.exited,
    stop: () => api.patch('/vm', { state: 'Paused' }),
    resume: () => api.patch('/vm', { state: 'Resumed' }),
    saveDevices: async (file) => {
      // Memory is always written with it. Of a machine that was booted it becomes the memory file; a clone's is compared
      // in place by whoever wants it, so this copy is dropped.
      const { devicesOut, memoryOut } = relative
      if (note.uid !== undefined) for (const path of [files.devicesOut, files.memoryOut]) emptyFileFor(path, note.uid)
      const snapshot = { snapshot_type: 'Full', snapshot_path: devicesOut, mem_file_path: memoryOut }
      await api.put('/snapshot/create', snapshot)
      if (note.uid !== undefined) for (const path of [files.devicesOut, files.memoryOut]) await chown(path, 0, 0)
      if (note.memory === null) await rm(files.memoryOut, { force: true })
      else await replace(files.memoryOut, note.memory)
      await move(files.devicesOut, file)
    },
    kill: () => process.kill(),
    [Symbol.asyncDispose]: async () => process.letGo(),
  }
}

/**
 * A template without a network card could not be given one later, and Firecracker's card always leads to a tap. So what has no
 * network has none, and what is to have one is built with a tap.
 */
function nicOf(network: NetworkBackend): { iface_id: string; host_dev_name: string } | undefined {
  if (network.kind === 'none') return undefined
  if (network.kind === 'tap') return { iface_id: 'nic', host_dev_name: network.device }
  throw new Fault('invalid', `Firecracker has no network of kind ${network.kind}, only none and tap`)
}

function namespaceOf(network: NetworkBackend | undefined): string | undefined {
  return network?.kind === 'tap' ? network.namespace : undefined
}

async function checkMemory(path: string, machine: MachineShape): Promise<void> {
  const { size } = await stat(path)
  if (size === machine.memoryMiB * 2 ** 20) return
  const sizes = `the snapshot has ${Math.round(size / 2 ** 20)} MiB of memory and the machine was to have ${machine.memoryMiB}`
  throw new Fault('invalid', sizes)
}

function refusal(error: unknown): unknown {
  if (!(error instanceof Fault) || error.code !== 'invalid') return error
  const why = error.cause instanceof Error ? error.cause.message : ''
  return new Fault('invalid', `Firecracker does not take this snapshot: ${why}`, { cause: error.cause })
}

/** The machine, or nothing: a process that could not be made one is ended. */
async function whole<T>(process: FirecrackerProcess, make: () => Promise<T>): Promise<T> {
  try {
    return await make()
  } catch (error) {
    await process.kill()
    process.letGo()
    throw error
  }
}

/** Who may open it stays as it was: machines that are users of their own do. */
async function replace(from: string, to: string): Promise<void> {
  const { mode } = await stat(to)
  await chmod(from, mode & 0o777)
  await move(from, to)
}

async function move(from: string, to: string): Promise<void> {
  await rename(from, to).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EXDEV') throw error
    await copyFile(from, to)
    await rm(from)
  })
}
