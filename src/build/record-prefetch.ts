import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Defaults } from '../blocks/manifest.ts'
import type { BuildId } from '../model/ids.ts'
import type { MachineShape } from '../model/sandbox.ts'
import { identify } from './machine.ts'
import type { BuildParts } from './parts.ts'
import { isMissing, runCommand } from './steps/run-command.ts'

export interface PrefetchOptions {
  /** A saved machine, and what the channel into it opens with. */
  build: BuildId
  token: string
  machine: MachineShape
  /** Asked once, as by the first user of a sandbox; absent, something that does nothing. */
  command: string | undefined
  surroundings: Defaults
  /** For sockets and names; unique among what runs. */
  name: string
  signal: AbortSignal
}

/** Chunks of memory and of the disk. */
export interface Prefetch {
  prefetch: number[]
  prefetchDisk: number[]
}

/**
 * Which chunks of its memory and its disk a clone touches on the way to its first answer, found by starting one and
 * looking: what to fetch first when a build lies far away.
 */
export async function recordPrefetch(parts: BuildParts, options: PrefetchOptions): Promise<Prefetch> {
  const { blocks, vmm } = parts
  const { build, token, machine, command, surroundings, name, signal } = options
  const late = () => ({ signal: AbortSignal.timeout(30_000) })
  await using stack = new AsyncDisposableStack()
  const directory = join(parts.directory, name)
  await mkdir(directory, { recursive: true, mode: 0o700 })
  stack.defer(() => rm(directory, { recursive: true, force: true }))
  const { socket } = await blocks.ask('openDisk', { name, from: { build } }, { signal })
  stack.defer(async () => void (await blocks.ask('closeDisk', { name }, late())))
  const memory = await blocks.ask('openMemory', { build, holder: name }, { signal })
  stack.defer(async () => void (await blocks.ask('releaseMemory', { build, holder: name }, late())))
  const devices = join(directory, 'devices')
  await blocks.ask('devices', { build, path: devices }, { signal })
  stack.defer(() => vmm.remove(directory))
  const vm = await vmm.restore({
    ...{ directory, machine, devices, signal },
    memory: { path: memory.path },
    disk: { socket },
    network: { kind: 'none' },
  })
  stack.use(vm)
  stack.defer(() => vm.kill())
  const touched = new Set<number>()
  /** Chunks in the order of the first look at which they had been touched. */
  const look = async () => {
    const { path, size } = memory
    const { chunks } = await blocks.ask('touched', { pid: vm.pid, path, size }, { signal })
    for (const chunk of chunks) touched.add(chunk)
  }
  await look()
  await vm.resume()
  const channel = await parts.connect(vm.channel, { token, signal })
  stack.use(channel)
  await look()
  await identify(parts, channel, undefined, signal)
  await channel.thaw({ signal })
  await look()
  await runCommand(channel, { command: command ?? ':', surroundings, signal }).catch((error: unknown) => {
    // An image of one program may have no shell; that its agent says so is an answer.
    if (command !== undefined || !isMissing(error)) throw error
  })
  await vm.stop()
  await look()
  const read = await blocks.ask('touchedDisk', { name }, { signal })
  return { prefetch: [...touched], prefetchDisk: read.chunks }
}
