import { existsSync } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from '../blocks/manifest.ts'
import type { GuestChannel } from '../guest/channel.ts'
import { allDone } from '../kit/all-done.ts'
import { deadline } from '../kit/clock.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { MachineShape } from '../model/sandbox.ts'
import type { MemoryImage, Vm, WarmVm } from '../vmm/vmm.ts'
import { memoryFault } from './memory-fault.ts'
import type { SandboxLink } from './network.ts'
import type { Parts } from './parts.ts'

/**
 * One VM with everything it stands on: its disk, its memory image, its place on the network, the channel into it. All of
 * them bear the name of its place, by which the agent after this one finds them again.
 */
export interface Live {
  readonly place: string
  readonly manifest: Manifest
  /** The build whose memory image it maps privately; null when it was booted and the memory is its own. */
  readonly mapped: BuildId | null
  /** What the VMM was given as memory. */
  readonly memory: { path: string; size: number }
  readonly vm: Vm
  readonly link: SandboxLink
  channel: GuestChannel
}

export interface RaiseOptions {
  /** Where it is to be; with `waiting`, that one's. */
  place: string
  manifest: Manifest
  /** Taken over when given, whether this succeeds or not. */
  waiting?: Waiting | undefined
  /** Memory is put over the image that its parent maps already, instead of having an image of its own. */
  overParent: boolean
  signal: AbortSignal
}

/** A VMM that waits to be given a snapshot, with its place on the network. */
export interface Waiting {
  readonly place: string
  readonly vm: WarmVm
  readonly link: SandboxLink
}

/** Makes one ahead; nothing is left when it fails. */
export async function wait(
  parts: Parts,
  { place, machine, signal }: { place: string; machine: MachineShape; signal: AbortSignal },
): Promise<Waiting> {
  await using undo = new AsyncDisposableStack()
  const directory = vmDirectory(parts, place)
  undo.defer(() => clear(parts, place))
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const link = await parts.network.open(place, { signal })
  const vm = await parts.vmm.warm({ directory, machine, network: link.backend, signal })
  undo.move()
  return { place, vm, link }
}

/** From a build to a VM whose guest agent has answered; nobody's yet. Leaves nothing behind when it fails. */
export async function raise(parts: Parts, options: RaiseOptions): Promise<Live> {
  const { place, manifest, signal } = options
  const { blocks, network } = parts
  await using undo = new AsyncDisposableStack()
  const directory = vmDirectory(parts, place)
  undo.defer(() => clear(parts, place))
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const opening = openMemory(parts, place, manifest, options)
  const [disk, link, memory, devices, early] = await allDone([
    blocks.ask('openDisk', { name: place, from: { build: manifest.id } }, { signal }),
    options.waiting?.link ?? network.open(place, { signal }),
    opening,
    manifest.snapshot ? deviceState(parts, manifest, directory, options) : undefined,
    startEarly(parts, options, directory, opening),
  ])
  try {
    const warm = options.waiting?.vm ?? early
    const live = await start(parts, options, { directory, disk, link, memory, devices, warm })
    undo.move()
    return live
  } catch (error) {
    signal.throwIfAborted()
    const why = await memoryFault(parts, memory.base)
    if (why === undefined) throw error
    throw new Fault('unavailable', `build ${manifest.id} cannot be started, since its memory cannot be read: ${why}`, {
      cause: error,
    })
  }
}

interface Opened {
  directory: string
  disk: { socket: string }
  link: SandboxLink
  memory: OpenMemory
  devices: string | undefined
  warm: WarmVm | undefined
}

/** A VMM that starts while the network is made, where it need not know it. Whoever clears the place ends it. */
async function startEarly(
  parts: Parts,
  { manifest, waiting, signal }: RaiseOptions,
  directory: string,
  opening: Promise<OpenMemory>,
): Promise<WarmVm | undefined> {
  if (waiting || !manifest.snapshot) return undefined
  const { can } = await parts.vmm.facts()
  if (!can.networkLater) return undefined
  return parts.vmm.warm({ directory, machine: manifest.machine, memory: imageOf(await opening), signal })
}

function imageOf({ path, isLazy, over }: OpenMemory): MemoryImage {
  return { path, isLazy, ...(over === undefined ? {} : { over }) }
}

async function start(
  parts: Parts,
  options: RaiseOptions,
  { directory, disk, link, memory, devices, warm }: Opened,
): Promise<Live> {
  const { place, manifest, signal } = options
  const { blocks } = parts
  const common = { directory, machine: manifest.machine, disk: { socket: disk.socket }, network: link.backend, signal }
  let vm: Vm
  if (devices === undefined) {
    vm = await parts.vmm.boot({ ...common, ...parts.boot, memory: { path: memory.path } })
  } else {
    const { base, path, size, over } = memory
    vm = await parts.vmm.restore({
      ...common,
      memory: imageOf(memory),
      devices,
      ...(warm ? { warm } : {}),
      ...(base === null || base === manifest.id || over !== undefined
        ? {}
        : {
            beforeLoad: async (pid) => {
              await blocks.ask('applyMemory', { pid, path, base, build: manifest.id, size }, { signal })
            },
          }),
    })
  }
  if (devices !== undefined) {
    // Loaded, and nobody else's: it would stay as long as the VM does.
    if (devices !== keptDeviceState(parts, manifest.id)) await rm(devices, { force: true })
    await vm.resume()
  }
  const token = manifest.snapshot?.channelToken ?? ''
  const channel = await answered(parts, vm, token, { boots: devices === undefined, signal })
  return { place, manifest, mapped: memory.base, memory, vm, link, channel }
}

/** A snapshot answers at once; a machine that boots takes seconds, and longer where the CPU is emulated. */
async function answered(
  parts: Parts,
  vm: Vm,
  token: string,
  { boots, signal }: { boots: boolean; signal: AbortSignal },
): Promise<GuestChannel> {
  const withinMs = boots ? bootMs : answerMs
  using patience = deadline(parts.clock, withinMs, signal)
  const over = new AbortController()
  void vm.exited.then(({ reason }) =>
    over.abort(new Fault('unavailable', `the VM ended before its guest answered: ${reason}`)),
  )
  try {
    return await parts.connect(vm, { token, signal: AbortSignal.any([patience.signal, over.signal]) })
  } catch (error) {
    signal.throwIfAborted()
    if (over.signal.aborted) throw over.signal.reason
    throw new Fault(
      'unavailable',
      `the guest did not answer within ${withinMs / 1000} s; its console is at ${vm.console}`,
      { cause: error },
    )
  }
}

const bootMs = 120_000
const answerMs = 30_000

interface OpenMemory {
  path: string
  size: number
  /** The build whose image it is; null for memory of its own. */
  base: BuildId | null
  isLazy: boolean
  /** Pages that lie over the image. */
  over: string | undefined
}

/**
 * Changed pages over the image that the parent was cloned from, where that is on this machine: so a paused sandbox goes on
 * sharing that with its siblings, and a fork need not wait for an image that nobody else may ever want. Every other build has
 * an image of its own; one that is not here yet is given out at once, and arrives as it is touched.
 */
async function openMemory(
  parts: Parts,
  holder: string,
  manifest: Manifest,
  { overParent, signal }: Pick<RaiseOptions, 'overParent' | 'signal'>,
): Promise<OpenMemory> {
  const { blocks } = parts
  if (!manifest.snapshot) {
    const size = manifest.machine.memoryMiB * 2 ** 20
    const { path } = await blocks.ask('newMemory', { name: holder, size, mayBeHuge: true }, { signal })
    return { path, size, base: null, isLazy: false, over: undefined }
  }
  const { parent, id } = manifest
  if (overParent && parent !== null) {
    try {
      const { path, size } = await blocks.ask('openMemory', { build: parent, holder, ifHere: true }, { signal })
      if (size === manifest.snapshot.memory.size) {
        const over = await placeDifference(parts, { place: holder, build: id, base: parent, signal })
        return { path, size, base: parent, isLazy: false, over }
      }
      await blocks.ask('releaseMemory', { build: parent, holder }, { signal })
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'not_found') throw error
    }
  }
  const { path, size, lazy } = await blocks.ask('openMemory', { build: id, holder, lazy: true }, { signal })
  return { path, size, base: id, isLazy: lazy, over: undefined }
}

/** For a VMM that can lay them over the image; undefined where it cannot. */
async function placeDifference(
  parts: Parts,
  { place, build, base, signal }: { place: string; build: BuildId; base: BuildId; signal: AbortSignal },
): Promise<string | undefined> {
  const { can } = await parts.vmm.facts()
  if (!can.layeredMemory) return undefined
  const at = join(vmDirectory(parts, place), 'changed-pages')
  await parts.blocks.ask('placeDifference', { build, base, at }, { signal })
  return at
}

/** The device state as a file: of a template kept for its next clone, of a pause or a fork gone with the VM. */
async function deviceState(
  parts: Parts,
  manifest: Manifest,
  own: string,
  { overParent, signal }: Pick<RaiseOptions, 'overParent' | 'signal'>,
): Promise<string> {
  const { compat } = await parts.vmm.facts()
  const wanted = manifest.snapshot?.compat ?? ''
  if (wanted !== compat) {
    throw new Fault(
      'conflict',
      `build ${manifest.id} was made by another VMM (${wanted}) than this node has (${compat}); build the template here, or start from its disk`,
    )
  }
  const unfinished = join(own, `${manifest.id}.restored`)
  const path = keptDeviceState(parts, manifest.id)
  if (!overParent && existsSync(path)) return path
  await parts.blocks.ask('devices', { build: manifest.id, path: unfinished }, { signal })
  if (overParent) return unfinished
  // Several may want it at once, and none may see half of it.
  await mkdir(keptDevices(parts), { recursive: true, mode: 0o700 })
  await rename(unfinished, path)
  return path
}

/** Device states that clones share; begun anew with each agent, since builds go. */
export function keptDevices(parts: Pick<Parts, 'directory'>): string {
  return join(parts.directory, 'devices')
}

function keptDeviceState(parts: Pick<Parts, 'directory'>, build: BuildId): string {
  return join(keptDevices(parts), build)
}

/** Ends whatever bears the name of a place, whoever began it. Idempotent; goes on where one part fails. */
export async function clear(parts: Parts, place: string): Promise<void> {
  const { blocks, vmm, network, log } = parts
  using patience = deadline(parts.clock, clearMs)
  const { signal } = patience
  const attempt = async (what: string, step: () => Promise<unknown>) => {
    await step().catch((error: unknown) =>
      log.warn({ place, err: error }, `${what} could not be freed: ${sentence(error)}`),
    )
  }
  await attempt('a VM', () => vmm.remove(vmDirectory(parts, place)))
  await Promise.all([
    attempt('a disk', () => blocks.ask('closeDisk', { name: place }, { signal })),
    attempt('a memory image', () => blocks.ask('releaseHolder', { holder: place }, { signal })),
    attempt('a place on the network', async () => (await network.adopt(place))?.close()),
  ])
  await rm(vmDirectory(parts, place), { recursive: true, force: true })
}

const clearMs = 30_000

export function vmDirectory(parts: Pick<Parts, 'directory'>, place: string): string {
  return join(parts.directory, 'vms', place)
}
