import { createWriteStream } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'
import { filesFault, readFiles } from '../context/read-files.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { lastLines } from '../machine.ts'
import { ownSurroundings } from '../steps/run-command.ts'
import { guestTar } from './guest-tar.ts'
import type { OtherFiles } from './other-files.ts'

export interface MachineFilesOptions {
  /** Where the bytes of files are put. */
  directory: string
  /** What the machine is called: `stage "build"`. */
  of: string
  signal: AbortSignal
}

const maxEntries = 500_000

/**
 * The files of a running machine. They come as one archive of the guest's own `tar`, which is quick; from a guest without
 * one they come one by one through its agent.
 */
export function machineFiles(channel: GuestChannel, { directory, of, signal }: MachineFilesOptions): OtherFiles {
  const { files } = channel
  let takes = 0
  const look: OtherFiles['look'] = async (path) => {
    try {
      return await files.stat(path, { signal })
    } catch (error) {
      if (error instanceof Fault && ['not_found', 'invalid'].includes(error.code)) return undefined
      throw error
    }
  }
  return {
    look,
    list: async (path) => (await files.list(path, { signal })).map(({ name }) => name),
    async take(paths) {
      const mounts = await mountsOf(channel, signal)
      const wanted = (await Promise.all(paths.map((path) => around(channel, path, mounts, signal)))).flat()
      if (wanted.length === 0) return new Map()
      takes += 1
      const place = join(directory, `take-${takes}`)
      await mkdir(place, { recursive: true, mode: 0o700 })
      const tar = await guestTar(channel, signal)
      if (tar === 'none') return takeSingly(channel, wanted, { directory: place, of, signal })
      return takeArchive(channel, wanted, { directory: place, of, signal, isGnu: tar === 'gnu' })
    },
  }
}

async function takeArchive(
  channel: GuestChannel,
  paths: readonly string[],
  { directory, of, signal, isGnu }: MachineFilesOptions & { isGnu: boolean },
): Promise<ReadonlyMap<string, ReceivedEntry>> {
  const names = paths.map((path) => `.${path}`)
  const { env, user, cwd } = ownSurroundings
  const command = ['tar', '-c', ...(isGnu ? ['--xattrs', '--xattrs-include=*'] : []), '-f', '-', '-C', '/', ...names]
  const execution = await channel.start({ command, env, user, cwd }, { signal })
  execution.stdin.on('error', () => {}).end()
  const complaints = execution.stderr ? text(execution.stderr) : Promise.resolve('')
  complaints.catch(() => {})
  const what = `what is copied from ${of}`
  const reading = readFiles(execution.stdout, { directory, what, whole: true, maxEntries, signal })
  reading.catch(() => execution.kill('SIGKILL'))
  const { code } = await execution.exited
  signal.throwIfAborted()
  if (code > 1) {
    await reading.catch(() => {})
    throw new Fault(
      'invalid',
      `${of} cannot be copied from: ${lastLines(await complaints, 2) || `tar ended with ${code}`}`,
    )
  }
  return await reading.catch((error: unknown) => {
    signal.throwIfAborted()
    throw filesFault(error, what)
  })
}

async function takeSingly(
  { files }: GuestChannel,
  paths: readonly string[],
  { directory, signal }: MachineFilesOptions,
): Promise<ReadonlyMap<string, ReceivedEntry>> {
  const tree = new Map<string, ReceivedEntry>()
  const add = async (path: string): Promise<void> => {
    const { type, mode, uid, gid, size, changedAt, target } = await files.stat(path, { signal })
    if (type === 'other') return
    const entry: ReceivedEntry = {
      ...{ path: path.slice(1), type, mode: mode & 0o7777, owner: { uid, gid } },
      ...{ size: type === 'file' ? size : 0, changedAt: Math.floor(changedAt / 1000) },
      ...(target === undefined ? {} : { target }),
    }
    tree.set(entry.path, entry)
    if (type === 'file' && size > 0) {
      entry.file = join(directory, String(tree.size))
      await pipeline(await files.read(path, { signal }), createWriteStream(entry.file, { mode: 0o600 }))
    }
    if (type === 'directory')
      for (const { name } of await files.list(path, { signal })) await add(posix.join(path, name))
  }
  for (const path of paths) await add(path)
  return tree
}

/** The path, or in its place what lies in it, so that nothing is taken of what the kernel shows there. */
async function around(
  channel: GuestChannel,
  path: string,
  mounts: readonly string[],
  signal: AbortSignal,
): Promise<string[]> {
  if (mounts.includes(path)) return []
  if (!mounts.some((mount) => mount.startsWith(path === '/' ? '/' : `${path}/`))) return [path]
  const entries = await channel.files.list(path, { signal })
  return (await Promise.all(entries.map(({ name }) => around(channel, posix.join(path, name), mounts, signal)))).flat()
}

async function mountsOf(channel: GuestChannel, signal: AbortSignal): Promise<string[]> {
  const table = await text(await channel.files.read('/proc/mounts', { signal }))
  return table.split('\n').flatMap((line) => {
    const point = line
      .split(' ')[1]
      ?.replace(/\\([0-7]{3})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 8)))
    return point === undefined || point === '/' ? [] : [point]
  })
}
