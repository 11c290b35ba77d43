import { copyFile, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { allDone } from '../../kit/all-done.ts'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import type { MachineShape } from '../../model/sandbox.ts'
import type { BootOptions, MemoryImage, NetworkBackend, RestoreOptions, Vm, Vmm, WarmOptions, WarmVm } from '../vmm.ts'
import { attachDisk, attachNetwork } from './attach.ts'
import { cmdlineOf, commandOf, filesOf } from './command.ts'
import { createFacts, type QemuSettings } from './facts.ts'
import { loadDevices, qemuMachine } from './machine.ts'
import { adoptProcess, endProcess, explained, type QemuProcess, startProcess } from './process.ts'

export interface QemuOptions extends QemuSettings {
  clock: Clock
  log: Log
}

/** Machines by QEMU: emulated anywhere, with KVM where it is seen to work. See docs/vmm.md. */
export function createQemu(options: QemuOptions): Vmm {
  return new Qemu(options)
}

class Qemu implements Vmm {
  readonly name = 'qemu'
  readonly #clock: Clock
  readonly #layers: string | undefined
  readonly #facts: ReturnType<typeof createFacts>
  readonly #warm = new WeakMap<WarmVm, Waiting>()

  constructor(options: QemuOptions) {
    this.#clock = options.clock
    this.#layers = options.layers
    this.#facts = createFacts(options)
  }

  async facts() {
    return (await this.#facts()).facts
  }

  async boot(options: BootOptions): Promise<Vm> {
    const { directory, machine, memory, network, signal } = options
    const kind = await this.#kindFor(machine)
    const start = {
      kernel: options.kernel,
      initrd: options.initrd,
      cmdline: cmdlineOf(kind, machine.arch, options.cmdline),
    }
    const command = commandOf({
      kind,
      shape: machine,
      directory,
      memory: { path: memory.path, shared: true },
      start,
    })
    const process = await this.#start({ command, directory, machine, memory: memory.path, network, signal })
    return whole(process, async () => {
      await attachDisk(process.qmp, options.disk.socket, { signal })
      await attachNetwork(process.qmp, network, { signal })
      await process.qmp.execute('cont', {}, { signal })
      return qemuMachine(process)
    })
  }

  async warm({ directory, machine, memory, network, signal }: WarmOptions): Promise<WarmVm> {
    const kind = await this.#kindFor(machine)
    if (memory) {
      await checkMemory(memory.path, machine)
      await placeLayers(directory, memory)
    }
    const command = commandOf({
      kind,
      shape: machine,
      directory,
      memory: memory ? { path: memory.path, shared: false } : 'later',
      start: 'incoming',
    })
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
        await endProcess(directory, this.#clock)
      },
    }
    this.#warm.set(warm, { process, machine, isLayered: memory?.over !== undefined, namespace: namespaceOf(network) })
    return warm
  }

  async restore(options: RestoreOptions): Promise<Vm> {
    const { machine, memory, disk, network, devices, signal } = options
    await checkMemory(memory.path, machine)
    const { warm, process } = await this.#waiting(options)
    return whole(process, async () => {
      const { qmp, directory } = process
      await copyFile(devices, filesOf(directory).devicesIn)
      if (warm.memory === undefined) {
        await placeLayers(directory, memory)
        await giveMemory(process, memory.path, machine, signal)
      }
      if (memory.over !== undefined) await checkLayers(process, this.#layers)
      // Its memory is there from now on, and filling it is the longest part of waking a paused machine.
      await allDone([
        attachDisk(qmp, disk.socket, { signal }).then(() => attachNetwork(qmp, network, { signal })),
        options.beforeLoad?.(process.mark.pid),
      ])
      await loadDevices(process, { signal })
      return qemuMachine(process)
    })
  }

  async adopt(directory: string): Promise<Vm | undefined> {
    using limit = deadline(this.#clock, 10_000)
    const process = await adoptProcess(directory, { clock: this.#clock, signal: limit.signal })
    return process && qemuMachine(process)
  }

  async remove(directory: string): Promise<void> {
    await endProcess(directory, this.#clock)
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
        // A QEMU that is given lazy memory late refuses the state of `kvm-tpr-opt`. TODO-robustness: find out why.
        (warm.memory !== undefined || memory.isLazy !== true) &&
        given.namespace === namespaceOf(network)
      if (fits) return { ...given, warm }
      await warm[Symbol.asyncDispose]()
    }
    const fresh = await this.warm({ directory, machine, memory, network, signal })
    const waiting = this.#warm.get(fresh)
    if (!waiting) throw new Error('a process that was just started is not known')
    this.#warm.delete(fresh)
    return { ...waiting, warm: fresh }
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

  #start(options: Omit<Parameters<typeof startProcess>[0], 'clock'> & { network?: NetworkBackend | undefined }) {
    const namespace = namespaceOf(options.network)
    const wrapper = namespace === undefined ? undefined : ['ip', 'netns', 'exec', namespace]
    return startProcess({ ...options, wrapper, layers: this.#layers, clock: this.#clock })
  }
}

interface Waiting {
  process: QemuProcess
  machine: MachineShape
  /** It was started on memory with pages over it. */
  isLayered: boolean
  namespace: string | undefined
}

function namespaceOf(network: NetworkBackend | undefined): string | undefined {
  return network?.kind === 'tap' ? network.namespace : undefined
}

function sameShape(a: MachineShape, b: MachineShape): boolean {
  return a.arch === b.arch && a.cpus === b.cpus && a.memoryMiB === b.memoryMiB
}

/** Puts in place what the preloaded library looks for when QEMU makes its memory. */
async function placeLayers(directory: string, { isLazy = false, over }: MemoryImage): Promise<void> {
  const files = filesOf(directory)
  if (isLazy) await writeFile(files.lazy, '')
  if (over === undefined) return
  await rename(over, files.over)
  await rename(`${over}.runs`, files.overRuns)
}

/** A QEMU that was linked to take no library would start on memory without what its machine had changed. */
async function checkLayers({ mark }: QemuProcess, library: string | undefined): Promise<void> {
  const maps = library === undefined ? '' : await readFile(`/proc/${mark.pid}/maps`, 'utf8')
  if (library !== undefined && maps.includes(library)) return
  throw new Fault(
    'unavailable',
    `QEMU does not take the library ${library ?? ''} that lays its memory; remove the library, and memory is copied instead`,
  )
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

/** Gives memory to a QEMU that has not made its machine yet, and lets it make it. */
async function giveMemory(
  { qmp }: QemuProcess,
  path: string,
  machine: MachineShape,
  signal: AbortSignal,
): Promise<void> {
  const size = machine.memoryMiB * 2 ** 20
  const object = { 'qom-type': 'memory-backend-file', id: 'm0', size, 'mem-path': path, share: false }
  await qmp.execute('object-add', object, { signal })
  const place = { path: '/machine', property: 'memory-backend', value: '/objects/m0' }
  await qmp.execute('qom-set', place, { signal })
  await qmp.execute('x-exit-preconfig', {}, { signal })
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
