import { createReadStream } from 'node:fs'
import { posix } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { type Header, pack } from 'tar-stream'
import type { FileEntry, GuestChannel } from '../../guest/channel.ts'
import { attributeEntry } from '../../images/attributes.ts'
import { Fault, StepFault } from '../../model/fault.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import { parseSymbolicMode } from '../../recipe/symbolic-mode.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { ownSurroundings, runCommand } from '../steps/run-command.ts'
import { findOwner, type Owner } from './find-owner.ts'
import { guestTar } from './guest-tar.ts'
import { planCopy, type Target } from './plan-copy.ts'
import { unpackedSource } from './unpack-archive.ts'

export interface CopyOptions {
  sources: readonly Selected<ReceivedEntry>[]
  to: string
  owner: string | undefined
  /** Bits, or what becomes of a file's own. */
  mode: number | string | undefined
  unpack: boolean
  cwd: string
  /** For archives that are unpacked on the way. */
  directory: string
  signal: AbortSignal
}

/**
 * Brings files into the guest. One archive goes to the guest's own `tar`, which knows links, owners and
 * times; a guest without one gets files and directories through its agent.
 */
export async function copyFiles(
  channel: GuestChannel,
  options: CopyOptions,
): Promise<{ files: number; bytes: number; stripped: number }> {
  const { to, mode, cwd, directory, signal } = options
  const what = async (path: string) => {
    const entry = await statFollowing(channel, path, signal)
    return entry === undefined ? undefined : entry.type === 'directory' ? 'directory' : 'file'
  }
  await using unpacking = new AsyncDisposableStack()
  const sources: Selected<ReceivedEntry>[] = []
  for (const source of options.sources) {
    const unpacked = options.unpack ? await unpackedSource(source, { directory, signal }) : undefined
    if (unpacked) unpacking.use(unpacked)
    sources.push(unpacked?.source ?? source)
  }
  const planned = await planCopy(sources, { to, cwd, what })
  const owner = options.owner === undefined ? undefined : await findOwner(channel, options.owner, signal)
  const targets: Target<ReceivedEntry>[] = []
  for (const target of planned) {
    const isDirectory = target.entry === undefined || target.entry.type === 'directory'
    const there = isDirectory ? await what(target.path) : undefined
    if (there === 'file')
      throw new Fault('invalid', `"${target.path}" is a file in the image, and what is copied needs a directory there`)
    // A directory that is there stays, also where it is reached through a link.
    if (!(there === 'directory' && (target.onlyIfMissing || isRoot(target.path)))) targets.push(target)
  }
  const files = targets.filter(({ entry }) => entry?.type === 'file')
  const keeps = targets.length > 0 && (await send(channel, targets, { owner, mode: modeFrom(mode), signal }))
  const stripped = keeps ? 0 : targets.filter(({ entry }) => entry?.attributes).length
  return { files: files.length, bytes: files.reduce((sum, { entry }) => sum + (entry?.size ?? 0), 0), stripped }
}

interface SendOptions {
  /** Of everything; without it each file keeps its own, or is root's. */
  owner: Owner | undefined
  mode: (entry: ReceivedEntry) => number
  signal: AbortSignal
}

/** Whether extended attributes came along. */
async function send(
  channel: GuestChannel,
  targets: readonly Target<ReceivedEntry>[],
  options: SendOptions,
): Promise<boolean> {
  const { signal } = options
  const tar = await guestTar(channel, signal)
  if (tar === 'none') {
    await sendPlain(channel, targets, options)
    return false
  }
  const keeps = tar === 'gnu'
  // Directories that the image has as links, such as /bin, stay links.
  const flags = keeps ? ['--keep-directory-symlink', '--numeric-owner', '--xattrs', '--xattrs-include=*'] : []
  const result = await runCommand(channel, {
    command: ['tar', '-x', '-p', ...flags, '-f', '-', '-C', '/'],
    surroundings: ownSurroundings,
    input: (stdin) => pipeline(Readable.from(archiveOf(targets, { ...options, keeps })), stdin),
    signal,
  })
  if (result.code === 0) return keeps
  const said = result.output.slice(-3).join(' | ')
  if (/no space left/i.test(said))
    throw new StepFault('exhausted', 'the disk of the template is full; ask for a larger one')
  throw new Fault('invalid', `the files could not be written: ${said || `tar failed with exit code ${result.code}`}`)
}

function archiveOf(
  targets: readonly Target<ReceivedEntry>[],
  { owner, mode, keeps }: SendOptions & { keeps: boolean },
): Readable {
  const archive = pack()
  const sent = new Map<string, string>()
  // One is out before the next begins, so that attributes stand right before what they are of.
  const put = (header: Partial<Header> & { name: string }, body?: string) =>
    new Promise<void>((resolve, reject) => {
      const done = (error?: Error | null) => (error ? reject(error) : resolve())
      if (body === undefined) archive.entry(header, done)
      else archive.entry(header, body, done)
    })
  const write = async () => {
    for (const { path, entry } of targets) {
      const header = {
        name: path.slice(1),
        ...ownerOf(entry, owner),
        mtime: new Date((entry?.changedAt ?? 0) * 1000),
      }
      const isFirst = entry?.inode === undefined || !sent.has(entry.inode)
      if (keeps && entry?.attributes && isFirst) archive.push(attributeEntry(entry.attributes))
      if (entry === undefined) await put({ ...header, type: 'directory', mode: 0o755 })
      else if (entry.type === 'directory') await put({ ...header, type: 'directory', mode: mode(entry) })
      else if (entry.type === 'link')
        await put({ ...header, type: 'symlink', linkname: entry.target ?? '', mode: 0o777 })
      else if (entry.inode !== undefined && sent.has(entry.inode))
        await put({ ...header, type: 'link', linkname: sent.get(entry.inode) ?? '', mode: mode(entry) })
      else if (entry.size === 0 || entry.file === undefined) await put({ ...header, mode: mode(entry) }, '')
      else
        await pipeline(
          createReadStream(entry.file),
          archive.entry({ ...header, type: 'file', size: entry.size, mode: mode(entry) }),
        )
      if (entry?.inode !== undefined && !sent.has(entry.inode)) sent.set(entry.inode, header.name)
    }
    archive.finalize()
  }
  write().catch((error) => archive.destroy(error))
  return Readable.from(archive)
}

/** Without the guest's help: what the agent itself can write. */
async function sendPlain(
  channel: GuestChannel,
  targets: readonly Target<ReceivedEntry>[],
  { owner, mode, signal }: SendOptions,
) {
  for (const { path, entry } of targets) {
    const { uid, gid } = ownerOf(entry, owner)
    const user = uid === 0 && gid === 0 ? {} : { user: `${uid}:${gid}` }
    if (entry === undefined || entry.type === 'directory') {
      if ((await statFollowing(channel, path, signal)) === undefined)
        await channel.files.makeDirectory(path, { ...user, signal })
    } else if (entry.type === 'link')
      throw new Fault('invalid', `"${entry.path}" is a symbolic link, and the image has no "tar" to make it with`)
    else {
      const stream = await channel.files.write(path, { ...user, mode: mode(entry), signal })
      const bytes = entry.file === undefined ? Readable.from([]) : createReadStream(entry.file)
      await pipeline(bytes, stream)
      await stream.written
    }
  }
}

function modeFrom(mode: number | string | undefined): SendOptions['mode'] {
  if (mode === undefined) return (entry) => entry.mode
  if (typeof mode === 'number') return () => mode
  const change = parseSymbolicMode(mode)
  return (entry) => change?.(entry.mode, entry.type === 'directory') ?? entry.mode
}

function ownerOf(entry: ReceivedEntry | undefined, owner: Owner | undefined): Owner {
  return owner ?? entry?.owner ?? { uid: 0, gid: 0 }
}

function isRoot(path: string): boolean {
  return path === '/'
}

/** What a path leads to in the guest; undefined when there is nothing. */
async function statFollowing(channel: GuestChannel, path: string, signal: AbortSignal): Promise<FileEntry | undefined> {
  let at = path
  for (let links = 0; links < 40; links += 1) {
    const entry = await channel.files.stat(at, { signal }).catch((error: unknown) => {
      if (error instanceof Fault && error.code === 'not_found') return undefined
      throw error
    })
    if (entry?.type !== 'link' || entry.target === undefined) return entry
    at = posix.resolve(posix.dirname(at), entry.target)
  }
  return undefined
}
