import { mkdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { GuestChannel } from '../guest/channel.ts'
import { deadline } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId } from '../model/ids.ts'
import type { MachineShape } from '../model/sandbox.ts'
import type { SandboxLink } from '../sandboxes/network.ts'
import type { Vm } from '../vmm/vmm.ts'
import type { BuildParts } from './parts.ts'

/** A machine that a build works in, booted from a disk. Disposing ends it and everything that was opened for it. */
export interface BuildMachine extends AsyncDisposable {
  readonly vm: Vm
  readonly channel: GuestChannel
  /** Name of its disk at the block server. */
  readonly disk: string
  readonly directory: string
  /** The file that is its memory. */
  readonly memory: string
  /** Brings the disk to rest for a moment and ends its epoch; gives the number. */
  cut(options: { signal: AbortSignal }): Promise<number>
}

export interface MachineOptions {
  /** For sockets and names; unique among what runs. */
  name: string
  from: BuildId
  machine: MachineShape
  /** Whether commands may reach the network. */
  withNetwork: boolean
  signal: AbortSignal
}

const bootMs = 180_000

export async function startMachine(parts: BuildParts, options: MachineOptions): Promise<BuildMachine> {
  const { blocks, clock, vmm } = parts
  const { name, from, machine, withNetwork, signal } = options
  await using stack = new AsyncDisposableStack()
  const directory = join(parts.directory, name)
  await rm(directory, { recursive: true, force: true })
  await mkdir(directory, { recursive: true, mode: 0o700 })
  stack.defer(() => rm(directory, { recursive: true, force: true }))
  const { socket } = await blocks.ask('openDisk', { name, from: { build: from } }, { signal })
  stack.defer(async () => void (await blocks.ask('closeDisk', { name }, { signal: AbortSignal.timeout(30_000) })))
  const link = withNetwork ? await openLink(parts, name, signal) : undefined
  if (link) stack.defer(() => link.close())
  const size = machine.memoryMiB * 2 ** 20
  const { path: memory } = await blocks.ask('newMemory', { name, size, mayBeHuge: true }, { signal })
  stack.defer(async () => void (await blocks.ask('closeMemory', { name }, { signal: AbortSignal.timeout(30_000) })))
  // Ends whatever a boot that failed half-way left.
  stack.defer(() => vmm.remove(directory))
  const booted = await parts.kernel(machine.arch)
  const vm = await vmm.boot({
    ...booted,
    directory,
    machine,
    memory: { path: memory },
    disk: { socket },
    network: link?.backend ?? { kind: 'none' },
    signal,
  })
  stack.use(vm)
  stack.defer(() => vm.kill())
  const channel = await answer(parts, vm, signal)
  stack.use(channel)
  await identify(parts, channel, link, signal)
  const owned = stack.move()
  return {
    vm,
    channel,
    disk: name,
    directory,
    memory,
    async cut({ signal: asked }) {
      await channel.freeze({ sync: true, signal: asked })
      await vm.stop()
      const { epoch } = await blocks.ask('cutDisk', { name }, { signal: asked })
      await vm.resume()
      await channel.thaw({ signal: asked })
      return epoch
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }

  async function answer({ connect }: BuildParts, started: Vm, parent: AbortSignal): Promise<GuestChannel> {
    using limit = deadline(clock, bootMs, parent)
    const ended = started.exited.then(({ reason }) => {
      throw new Fault('unavailable', `the machine ended while it booted: ${reason}`)
    })
    try {
      return await Promise.race([connect(started.channel, { signal: limit.signal }), ended])
    } catch (error) {
      parent.throwIfAborted()
      const said = lastLines(await readFile(started.console, 'utf8').catch(() => ''), 5)
      const why = limit.signal.aborted
        ? `it did not answer within ${bootMs / 1000} s`
        : String((error as Error).message)
      throw new Fault(
        'unavailable',
        `the machine did not boot: ${why}${said === '' ? '' : `; its console ends with: ${said}`}`,
        {
          cause: error,
        },
      )
    }
  }
}

async function openLink({ network }: BuildParts, name: string, signal: AbortSignal): Promise<SandboxLink | undefined> {
  // Places on the network bear names without dashes.
  const link = await network?.open(name.replaceAll('-', ''), { signal })
  await link?.allow({ mode: 'allow' })
  return link
}

/** A machine that builds is nobody in particular; each sandbox becomes somebody of its own. */
export async function identify(
  { clock, random }: BuildParts,
  channel: GuestChannel,
  link: SandboxLink | undefined,
  signal: AbortSignal,
): Promise<void> {
  const hex = (count: number) => Buffer.from(random.bytes(count)).toString('hex')
  await channel.identify(
    {
      generation: hex(16),
      entropy: random.bytes(64),
      now: clock.now(),
      hostname: 'template',
      machineId: hex(16),
      env: {},
      network: link?.identity ?? null,
      fresh: false,
    },
    { signal },
  )
}

/** The end of a text, on one line. */
export function lastLines(text: string, count: number): string {
  const lines = text
    .split(/\r?\n/)
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
  return lines.slice(-count).join(' | ').slice(-2000)
}
