import { join } from 'node:path'
import type { Defaults, Manifest } from '../blocks/manifest.ts'
import type { GuestExecution } from '../guest/channel.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { Recipe } from '../recipe/recipe.ts'
import type { Base } from './begin-from.ts'
import type { BuildScope } from './build-template.ts'
import { type BuildMachine, startMachine } from './machine.ts'
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
  await waitUntilReady({ ...options, guest, started })
  return store(options, guest)
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
 * both are of the one instant in which the machine stands still.
 */
async function store(options: SaveOptions, { vm, channel, disk, directory, memory }: BuildMachine): Promise<Manifest> {
  const { parts, build, machine, defaults, layer, report, signal } = options
  const { blocks, clock, vmm } = parts
  const capture = `c-${build}`
  const devices = join(directory, 'devices')
  report('save', 'saving the template')
  await channel.shrink({ signal })
  await channel.freeze({ sync: true, signal })
  const { agentVersion, nextToken } = channel
  await channel.quiesce({ signal })
  await vm.stop()
  await vm.saveDevices(devices)
  const size = machine.memoryMiB * 2 ** 20
  await blocks.ask('captureMemory', { capture, pid: vm.pid, path: memory, build: null, size }, { signal })
  try {
    const { epoch } = await blocks.ask('cutDisk', { name: disk }, { signal })
    const { compat } = await vmm.facts()
    const { addedBytes } = await blocks.ask(
      'store',
      {
        build,
        reason: 'template',
        parent: layer,
        createdAt: clock.now(),
        machine,
        defaults,
        disk: { name: disk, epoch },
        snapshot: { capture, devices, compat, guestAgent: agentVersion, channelToken: nextToken },
        reference: `build/${build}`,
      },
      { signal },
    )
    report('save', `saved as ${build}, ${(addedBytes / 2 ** 20).toFixed(1)} MiB new`)
  } catch (error) {
    const late = { signal: AbortSignal.timeout(30_000) }
    await blocks.ask('dropCapture', { capture }, late).catch(() => {})
    await blocks.ask('deleteReference', { name: `build/${build}` }, late).catch(() => {})
    throw error
  }
  return (await blocks.ask('manifest', { build }, { signal })).manifest
}
