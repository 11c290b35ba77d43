import { join } from 'node:path'
import type { Defaults, Manifest } from '../blocks/manifest.ts'
import type { GuestExecution } from '../guest/channel.ts'
import { deadline } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'
import { BuildId, encodeId } from '../model/ids.ts'
import { formatSize } from '../model/units.ts'
import type { Recipe } from '../recipe/recipe.ts'
import type { Base } from './begin-from.ts'
import type { BuildScope } from './build-template.ts'
import { explainingFullDisk } from './full-disk.ts'
import { type BuildMachine, identify, startMachine } from './machine.ts'
import { type Prefetch, recordPrefetch } from './record-prefetch.ts'
import { waitUntilReady } from './wait-until-ready.ts'

export interface SaveOptions extends BuildScope {
  base: Base
  /** The disk after the last step. */
  layer: BuildId
  defaults: Defaults
}

/** Boots the finished disk afresh, lets the start command become ready, and saves disk and memory of the same instant. */
export async function saveTemplate(options: SaveOptions): Promise<Manifest> {
  const { parts, build, base, layer, machine, recipe, report, signal } = options
  report('start', 'booting the template')
  await using guest = await startMachine(parts, {
    name: `t-${build}`,
    from: layer,
    machine,
    withNetwork: false,
    signal,
  })
  const command = startCommand(recipe.start, base)
  const started = command === undefined ? undefined : await start(options, guest, command)
  return await explainingFullDisk(options.directory, options, async () => {
    await waitUntilReady({ ...options, guest, started })
    return await store(options, guest)
  })
}

/** What is to be started; undefined for nothing. */
export function startCommand(
  start: Recipe['start'],
  { entrypoint, command }: Pick<Base, 'entrypoint' | 'command'>,
): string | string[] | undefined {
  if (start === undefined || typeof start === 'string' || Array.isArray(start)) return start
  if (start === true) {
    const own = [...entrypoint, ...command]
    if (own.length === 0)
      throw new Fault('invalid', 'the image has no command of its own to start; name one with "start:"')
    return own
  }
  const { afterEntrypoint: given } = start
  if (entrypoint.length === 0) return given
  return [...entrypoint, ...(typeof given === 'string' ? ['/bin/sh', '-c', given] : given)]
}

async function start(
  { report, defaults, signal }: SaveOptions,
  { channel }: BuildMachine,
  command: string | string[],
): Promise<GuestExecution> {
  report('start', typeof command === 'string' ? command : command.join(' '))
  const { env, user, cwd } = defaults
  try {
    return await channel.start(
      { command: typeof command === 'string' ? ['/bin/sh', '-c', command] : command, env, user, cwd, detached: true },
      { signal },
    )
  } catch (error) {
    signal.throwIfAborted()
    const { code, message } = Fault.from(error)
    throw new Fault(code, `the start command cannot be started: ${message}`, { cause: error })
  }
}

/**
 * The order matters: nothing is under way when everything stops; the disk's last writes are out before memory is taken;
 * both are of the one instant in which the machine stands still. It stands still to the end, so that it can be stored a
 * second time with what a clone of the first was seen to need.
 */
async function store(options: SaveOptions, guest: BuildMachine): Promise<Manifest> {
  const { parts, build, report, signal } = options
  const { blocks } = parts
  const { vm, channel, disk, directory } = guest
  report('save', 'saving the template')
  await setUsualNetwork(options, guest)
  await channel.freeze({ sync: true, signal })
  // The disk has everything now. A clone of a file system that stands still would have to let it go on, by writing to it.
  await channel.thaw({ signal })
  await channel.freeze({ sync: false, signal })
  const { agentVersion, nextToken: token } = channel
  await channel.quiesce({ signal })
  await vm.stop()
  const devices = join(directory, 'devices')
  await vm.saveDevices(devices)
  const { epoch } = await blocks.ask('cutDisk', { name: disk }, { signal })
  const still = { ...options, guest, devices, epoch, agentVersion, token }
  const trial = BuildId.parse(encodeId(parts.random.bytes(10)))
  const trialName = `layer/trial-${build}`
  const first = await storeStill({ ...still, id: trial, reason: 'layer', reference: trialName, prefetch: nothing })
  const prefetch = await tryOut(options, { trial, token }).finally(() =>
    blocks.ask('deleteReference', { name: trialName }, { signal: AbortSignal.timeout(30_000) }).catch(() => {}),
  )
  const reference = `build/${build}`
  const { addedBytes } = await storeStill({ ...still, id: build, reason: 'template', reference, prefetch })
  report('save', `saved as ${build}, ${formatSize(first.addedBytes + addedBytes)} new`)
  const { manifest } = await blocks.ask('manifest', { build }, { signal })
  // Most of it came with the trial, which goes: to whoever is told, all of it is this build's.
  return { ...manifest, addedBytes: first.addedBytes + addedBytes }
}

/** The network that clones will most likely be given, so that they need not set it; nothing leads anywhere from here. */
async function setUsualNetwork({ parts, build, signal }: SaveOptions, { channel }: BuildMachine): Promise<void> {
  const link = await parts.network?.open(`u${build}`, { signal })
  try {
    await identify(parts, channel, link, signal)
  } finally {
    await link?.close()
  }
}

const trialMs = 120_000

/** Starts a sandbox of what was saved. One that cannot be started is no template. */
async function tryOut(
  { parts, build, machine, recipe, defaults, report, signal }: SaveOptions,
  { trial, token }: { trial: BuildId; token: string },
): Promise<Prefetch> {
  report('save', 'trying a sandbox of it')
  using limit = deadline(parts.clock, trialMs, signal)
  try {
    return await recordPrefetch(parts, {
      ...{ build: trial, token, machine, name: `p-${build}`, surroundings: defaults, signal: limit.signal },
      command: recipe.ready?.command,
    })
  } catch (error) {
    signal.throwIfAborted()
    const why = limit.signal.aborted ? `it did not answer within ${trialMs / 1000} s` : Fault.from(error).message
    throw new Fault('unavailable', `no sandbox can be started from what was saved: ${why}`, { cause: error })
  }
}

const nothing: Prefetch = { prefetch: [], prefetchDisk: [] }

interface Still extends SaveOptions {
  guest: BuildMachine
  devices: string
  epoch: number
  agentVersion: string
  token: string
  id: BuildId
  reason: 'layer' | 'template'
  reference: string
  prefetch: Prefetch
}

/** Stores the machine as it stands still. Fails without a name or with nothing. */
async function storeStill(options: Still): Promise<{ addedBytes: number }> {
  const { parts, guest, machine, layer, defaults, id, reason, reference, prefetch, signal } = options
  const { devices, epoch, agentVersion, token } = options
  const { blocks, clock, vmm } = parts
  const capture = `c-${id}`
  const size = machine.memoryMiB * 2 ** 20
  const { compat } = await vmm.facts()
  try {
    const { pid } = guest.vm
    await blocks.ask('captureMemory', { capture, pid, path: guest.memory, build: null, size }, { signal })
    return await blocks.ask(
      'store',
      {
        ...{ build: id, reason, parent: layer, createdAt: clock.now(), machine, defaults, reference },
        disk: { name: guest.disk, epoch },
        snapshot: { capture, devices, compat, guestAgent: agentVersion, channelToken: token, ...prefetch },
      },
      { signal },
    )
  } catch (error) {
    const late = { signal: AbortSignal.timeout(30_000) }
    await blocks.ask('dropCapture', { capture }, late).catch(() => {})
    await blocks.ask('deleteReference', { name: reference }, late).catch(() => {})
    throw error
  }
}
