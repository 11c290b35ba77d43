import { closeSync } from 'node:fs'
import { copyFile, rm, stat } from 'node:fs/promises'
import { allDone } from '../../kit/all-done.ts'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import { openPrivateMemory } from '../isolation/given-files.ts'
import { type Isolation, isolationOnce } from '../isolation/isolation.ts'
import { kvmGroup, type Lodging, namedNetwork } from '../isolation/lodging.ts'
import type { BootOptions, NetworkBackend, RestoreOptions, Vm, Vmm, WarmOptions, WarmVm } from '../vmm.ts'
import { attachDisk, attachNetwork } from './attach.ts'
import { cmdlineOf, commandOf, filesOf, type MachineKind } from './command.ts'
import { createFacts, type QemuSettings } from './facts.ts'
import { handDescriptor, handFile, handSocket } from './hand-over.ts'
import { loadDevices, qemuMachine } from './machine.ts'
import { checkLayers, placeLayers } from './memory-layers.ts'
import { qemuRoot } from './own-root.ts'
import { adoptProcess, endProcess, explained, type QemuProcess, startProcess } from './process.ts'

export interface QemuOptions extends QemuSettings {
  clock: Clock
  log: Log
  /** Runs it as the agent's own user even where every VMM could have one of its own. */
  isolate?: boolean
}

/** Machines by QEMU: emulated anywhere, with KVM where it is seen to work. See docs/vmm.md. */
export function createQemu(options: QemuOptions): Vmm {
  return new Qemu(options)
}

class Qemu implements Vmm {
  readonly name = 'qemu'
  readonly #clock: Clock
  readonly #layers: string | undefined
  readonly #log: Log
  /** Where its processes are users of their own. */
  readonly #isolated: () => Isolation | undefined
  #root: ReturnType<typeof qemuRoot> | undefined
  readonly #facts: ReturnType<typeof createFacts>
  readonly #warm = new WeakMap<WarmVm, Waiting>()

  constructor(options: QemuOptions) {
    this.#clock = options.clock
    this.#layers = options.layers
    this.#log = options.log
    this.#isolated = options.isolate === false ? () => undefined : isolationOnce(options)
    this.#facts = createFacts(options)
  }

  async facts() {
    const { facts, kind } = await this.#facts()
    // Made now, while nobody waits for a machine.
    if (kind) await this.#lodgingFor(kind, undefined)
    // One that is isolated is handed its network; another has to be started where its tap is.
    const networkLater = (this.#isolated() !== undefined) === facts.can.networks.includes('tap')
    return { ...facts, can: { ...facts.can, networkLater } }
  }

  async boot(options: BootOptions): Promise<Vm> {
    const { directory, machine, memory, network, signal } = options
    const kind = await this.#kindFor(machine)
    const start = {
      kernel: options.kernel,
      initrd: options.initrd,
      cmdline: cmdlineOf(kind, machine.arch, options.cmdline),
    }
    const command = {
      kind,
      shape: machine,
      directory,
      memory: { path: memory.path, shared: true },
      start,
    }
    const process = await this.#start({ command, directory, machine, memory: memory.path, network, signal })
    return whole(process, async () => {
      await this.#attach(process, options)
      await process.qmp.execute('cont', {}, { signal })
      return this.#machine(process)
    })
  }

  async warm({ directory, machine, memory, network, signal }: WarmOptions): Promise<WarmVm> {
    const kind = await this.#kindFor(machine)
    if (memory) {
      await checkMemory(memory.path, machine)
      await placeLayers(directory, memory)
    }
    const command = {
      kind,
      shape: machine,
      directory,
      memory: memory ? { path: memory.path, shared: false } : ('later' as const),
      start: 'incoming' as const,
    }
    const path = memory?.path ?? null
    const process = await this.#start({ command, directory, machine, memory: path, network, signal })
    const warm: WarmVm = {
      pid: process.mark.pid,
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
    const isLayered = memory?.over !== undefined
    this.#warm.set(warm, { process, machine, isLayered, stack: this.#stackOf(process, network) })
    return warm
  }

  async restore(options: RestoreOptions): Promise<Vm> {
    const { machine, memory, devices, signal } = options
    await checkMemory(memory.path, machine)
    const { warm, process } = await this.#waiting(options)
    return whole(process, async () => {
      const { directory } = process
      await copyFile(devices, filesOf(directory).devicesIn)
      if (warm.memory === undefined) {
        await placeLayers(directory, memory)
        await this.#giveMemory(process, memory.path, machine, signal)
      }
      if (memory.over !== undefined) await checkLayers(process, this.#layers)
      // Its memory is there from now on, and filling it is the longest part of waking a paused machine.
      await allDone([this.#attach(process, options), options.beforeLoad?.(process.mark.pid)])
      await loadDevices(process, { signal })
      await rm(filesOf(directory).devicesIn, { force: true })
      return this.#machine(process)
    })
  }

  async adopt(directory: string): Promise<Vm | undefined> {
    using limit = deadline(this.#clock, 10_000)
    const process = await adoptProcess(directory, {
      ...{ clock: this.#clock, signal: limit.signal, isolation: this.#isolated() },
    })
    return process && this.#machine(process)
  }

  async remove(directory: string): Promise<void> {
    await endProcess(directory, { clock: this.#clock, isolation: this.#isolated() })
  }

  /** The waiting process that was handed over, if it fits; a new one otherwise. */
  async #waiting(options: RestoreOptions): Promise<Waiting & { warm: WarmVm }> {
    const { warm, machine, memory, network, directory, signal } = options
    const given = warm && this.#warm.get(warm)
    if (warm && given) {
      this.#warm.delete(warm)
      const fits =
        sameShape(given.machine, machine) &&
        (warm.memory === undefined || warm.memory === memory.path) &&
        (warm.memory === undefined || given.isLayered === (memory.over !== undefined)) &&
        // A QEMU that waits without memory and is then given lazy memory refuses the state of its `kvm-tpr-opt`: seen each
        // time, and not understood. With memory that is all here it takes it.
        (warm.memory !== undefined || memory.isLazy !== true) &&
        given.stack === this.#stackOf(given.process, network)
      if (fits) return { ...given, warm }
      await warm[Symbol.asyncDispose]()
    }
    const fresh = await this.warm({ directory, machine, memory, network, signal })
    const waiting = this.#warm.get(fresh)
    if (!waiting) throw new Error('a process that was just started is not known')
    this.#warm.delete(fresh)
    return { ...waiting, warm: fresh }
  }

  async #machine(process: QemuProcess): Promise<Vm> {
    const { facts } = await this.#facts()
    return qemuMachine(process, { saving: facts.can.savesMemory ? 'whole' : 'devices' })
  }

  async #kindFor(machine: MachineShape) {
    const { facts, kind } = await this.#facts()
    if (kind === undefined) throw new Fault('unavailable', `${facts.reason}; ${facts.remedy}`)
    if (machine.arch !== facts.arch)
      throw new Fault(
        'invalid',
        `a machine for ${machine.arch} cannot run on this node, which makes ${facts.arch} ones`,
      )
    return kind
  }

  async #start({ command, network, ...options }: StartOptions): Promise<QemuProcess> {
    const found = await this.#lodgingFor(command.kind, network)
    const isPrivate = command.memory === 'later' || !command.memory.shared
    const imageBytes = isPrivate ? options.machine.memoryMiB * 2 ** 20 : 0
    const lodging = found && { ...found, overheadBytes: found.overheadBytes + imageBytes }
    const namespace = namespaceOf(network)
    return startProcess({
      ...options,
      command: (reach) => commandOf({ ...command, reach }),
      lodging,
      wrapper: namespace === undefined ? undefined : ['ip', 'netns', 'exec', namespace],
      layers: this.#layers,
      clock: this.#clock,
    })
  }

  async #lodgingFor(kind: MachineKind, network: NetworkBackend | undefined): Promise<Lodging | undefined> {
    const isolation = this.#isolated()
    if (isolation === undefined) return undefined
    const kvm = kind.accelerator === 'kvm' ? await kvmGroup() : undefined
    const lodging: Lodging = {
      ...{ isolation, root: undefined, network: isolation.network, gid: typeof kvm === 'object' ? undefined : kvm },
      overheadBytes: kind.accelerator === 'kvm' ? virtualizedBytes : emulatedBytes,
    }
    this.#root ??= qemuRoot({ kind, lodging, clock: this.#clock, log: this.#log })
    // QEMU itself looks up which nameserver a guest of an open network is led to, and follows the machine to another.
    const root = isOpen(network) ? undefined : await this.#root()
    if (root === undefined && typeof kvm === 'object') {
      this.#log.info({ why: kvm.lacking }, 'VMMs run as the user of the agent')
      return undefined
    }
    return { ...lodging, root, ...(isOpen(network) ? { network: undefined } : {}) }
  }

  async #attach(process: QemuProcess, { disk, network, signal }: RestoreOptions | BootOptions): Promise<void> {
    const { qmp } = process
    const isolation = process.uid === undefined ? undefined : this.#isolated()
    if (isolation === undefined) {
      await attachDisk(qmp, disk.socket, { signal })
      return attachNetwork(qmp, network, { signal })
    }
    const socket = await handSocket(process, isolation, { path: disk.socket, name: 'disk', signal })
    await attachDisk(qmp, socket, { signal })
    if (network.kind === 'tap') {
      await handDescriptor(process, isolation, { fd: openTap(isolation, network), name: 'tap', signal })
      return attachNetwork(qmp, network, { signal, tap: 'tap' })
    }
    const path = network.kind === 'stream' ? network.socket : undefined
    const backend = path && {
      kind: 'stream' as const,
      socket: await handSocket(process, isolation, { path, name: 'stream', signal }),
    }
    await attachNetwork(qmp, backend || network, { signal })
  }

  /** Gives memory to a QEMU that has not made its machine yet, and lets it make it. */
  async #giveMemory(process: QemuProcess, path: string, machine: MachineShape, signal: AbortSignal): Promise<void> {
    const { qmp } = process
    const isolation = process.uid === undefined ? undefined : this.#isolated()
    const from = isolation
      ? await handFile(process, isolation, { fd: openPrivateMemory(path, isolation), signal })
      : path
    const size = machine.memoryMiB * 2 ** 20
    const object = { 'qom-type': 'memory-backend-file', id: 'm0', size, 'mem-path': from, share: false }
    await qmp.execute('object-add', object, { signal })
    const place = { path: '/machine', property: 'memory-backend', value: '/objects/m0' }
    await qmp.execute('qom-set', place, { signal })
    await qmp.execute('x-exit-preconfig', {}, { signal })
  }

  /** Names the network stack that the process must have been started in to be given this network. */
  #stackOf(process: QemuProcess, network: NetworkBackend | undefined): string | undefined {
    if (process.uid === undefined) return namespaceOf(network)
    return isOpen(network) ? 'host' : undefined
  }
}

type StartOptions = Omit<Parameters<typeof startProcess>[0], 'clock' | 'command' | 'lodging' | 'wrapper'> & {
  command: Omit<Parameters<typeof commandOf>[0], 'reach'>
  network: NetworkBackend | undefined
}

/**
 * Beside the guest's memory: what was translated (at most 128 MiB), the program, tables of pages, requests under way. The
 * image of a memory counts once more: when the first machine of a build touches a page that the image has none of, the
 * kernel makes it in the image, on account of that machine, and then a copy.
 */
const emulatedBytes = 256 * 2 ** 20
const virtualizedBytes = 128 * 2 ** 20

/** Its world is what this machine itself reaches. */
function isOpen(network: NetworkBackend | undefined): boolean {
  return network?.kind === 'user' && !network.restrict
}

function openTap({ native }: Isolation, { device, namespace }: NetworkBackend & { kind: 'tap' }): number {
  if (namespace === undefined) return native.openTap(undefined, device)
  const there = namedNetwork(namespace)
  try {
    return native.openTap(there, device)
  } finally {
    closeSync(there)
  }
}

interface Waiting {
  process: QemuProcess
  machine: MachineShape
  /** It was started on memory with pages over it. */
  isLayered: boolean
  stack: string | undefined
}

function namespaceOf(network: NetworkBackend | undefined): string | undefined {
  return network?.kind === 'tap' ? network.namespace : undefined
}

function sameShape(a: MachineShape, b: MachineShape): boolean {
  return a.arch === b.arch && a.cpus === b.cpus && a.memoryMiB === b.memoryMiB
}

/** QEMU itself would map a file of another size, and the guest would find holes in its memory. */
async function checkMemory(path: string, machine: MachineShape): Promise<void> {
  const { size } = await stat(path)
  const wanted = machine.memoryMiB * 2 ** 20
  if (size !== wanted)
    throw new Fault(
      'invalid',
      `the snapshot has ${Math.round(size / 2 ** 20)} MiB of memory and the machine was to have ${machine.memoryMiB}`,
    )
}

/** The machine, or nothing: a process that could not be made one is ended. */
async function whole(process: QemuProcess, make: () => Promise<Vm>): Promise<Vm> {
  try {
    return await make()
  } catch (error) {
    const why = await explained(error, process.directory)
    await process.kill()
    process.letGo()
    throw why
  }
}
