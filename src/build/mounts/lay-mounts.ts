import { posix } from 'node:path'
import type { Readable } from 'node:stream'
import type { GuestChannel } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { copyFiles } from '../copy/copy-files.ts'
import { lastLines } from '../machine.ts'
import { type CopyAction, mountKey, type PlannedMount } from '../steps/plan-steps.ts'
import { isMissing, ownSurroundings, runCommand } from '../steps/run-command.ts'
import type { CacheStore } from './cache-store.ts'
import { restoreCache, saveCache } from './keep-cache.ts'
import { mountPoint } from './mount-point.ts'

export interface LayOptions {
  mounts: readonly PlannedMount[]
  /** The step's. */
  key: string
  /** By id, in base64. */
  secrets: Readonly<Record<string, string>>
  template: string
  caches: CacheStore
  /** For archives on the way. */
  directory: string
  /** The files of a bind. */
  sourcesOf(key: string, copy: CopyAction): Promise<readonly Selected<ReceivedEntry>[]>
  warn(message: string): void
  signal: AbortSignal
}

export interface LaidMounts {
  /** Secrets that are variables. */
  env: Record<string, string>
  /** Keeps the caches, and leaves the file system as it would be without the mounts. */
  takeAway(): Promise<void>
}

/** In memory: what is secret must never be on the disk. */
const memoryPlace = '/run/.tutti-mounts'
/** What may be large. Removed and trimmed from the disk before it is stored. */
const diskPlace = '/.tutti-mounts'

/**
 * Mounts what a command of RUN is to find, with the guest's own `mount`. Files of binds and caches lie on the guest's disk
 * meanwhile, so they take room there; secrets lie in its memory alone. A guest that fails here is not used again.
 */
export async function layMounts(channel: GuestChannel, options: LayOptions): Promise<LaidMounts> {
  const laying = new Laying(channel, options)
  for (const [at, mount] of options.mounts.entries()) await laying.lay(mount, at)
  return { env: laying.env, takeAway: () => laying.takeAway() }
}

type MountOf<Kind extends PlannedMount['kind']> = Extract<PlannedMount, { kind: Kind }>

/** Mounts one after the other, and what it takes to undo them. */
class Laying implements LaidMounts {
  readonly env: Record<string, string> = {}
  readonly #channel: GuestChannel
  readonly #options: LayOptions
  readonly #undo: (() => Promise<void>)[] = []

  constructor(channel: GuestChannel, options: LayOptions) {
    this.#channel = channel
    this.#options = options
  }

  lay(mount: PlannedMount, at: number): Promise<void> {
    switch (mount.kind) {
      case 'tmpfs':
        return this.#layTmpfs(mount)
      case 'secret':
        return this.#laySecret(mount, posix.join(memoryPlace, String(at)))
      case 'bind':
        return this.#layBind(mount, posix.join(diskPlace, String(at)), mountKey(this.#options.key, at))
      case 'cache':
        return this.#layCache(mount, posix.join(diskPlace, String(at)))
    }
  }

  async takeAway(): Promise<void> {
    const { files } = this.#channel
    const { mounts, signal } = this.#options
    for (const each of this.#undo.toReversed()) await each()
    await files.remove(memoryPlace, { signal }).catch(ifThere)
    if (!mounts.some(({ kind }) => kind === 'bind' || kind === 'cache')) return
    await files.remove(diskPlace, { signal }).catch(ifThere)
    // What was removed would otherwise still be among the blocks of the layer.
    await this.#channel.shrink({ signal })
  }

  async #layTmpfs({ to, bytes }: MountOf<'tmpfs'>): Promise<void> {
    const size = bytes === undefined ? [] : [`size=${bytes}`]
    await this.#mount(to, 'directory', ['-t', 'tmpfs', '-o', ['mode=1777', ...size].join(','), 'tmpfs'])
  }

  async #laySecret(mount: MountOf<'secret'>, file: string): Promise<void> {
    const { secrets, signal } = this.#options
    const { id, env, to, uid, gid, mode = 0o400 } = mount
    const given = Object.hasOwn(secrets, id) ? secrets[id] : undefined
    if (given === undefined && mount.required)
      throw new Fault('invalid', `secret "${id}" is required and was not given; say --secret id=${id},src=FILE`)
    if (given === undefined) return
    const bytes = Buffer.from(given, 'base64')
    if (env !== undefined) this.env[env] = bytes.toString('utf8')
    if (to === undefined) return
    const writing = await this.#channel.files.write(file, { mode, signal })
    writing.end(bytes)
    await writing.written
    await this.#give(file, { uid, gid })
    await this.#bind(file, to, 'file', { readOnly: true })
  }

  async #layBind({ to, writable, copy }: MountOf<'bind'>, place: string, key: string): Promise<void> {
    const { sourcesOf, directory, signal } = this.#options
    const sources = await sourcesOf(key, copy)
    const [first] = sources
    await this.#channel.files.makeDirectory(place, { signal })
    const settings = { to: `${place}/`, owner: undefined, mode: undefined, unpack: false, cwd: '/' }
    await copyFiles(this.#channel, { sources, ...settings, directory, signal })
    const isFile = first?.found.kind === 'file'
    const from = isFile ? posix.join(place, first.name) : place
    await this.#bind(from, to, isFile ? 'file' : 'directory', { readOnly: !writable })
  }

  async #layCache({ to, id, readOnly, uid, gid, mode = 0o755 }: MountOf<'cache'>, place: string): Promise<void> {
    const { template, caches, warn, signal } = this.#options
    const channel = this.#channel
    await channel.files.makeDirectory(place, { signal })
    await restoreCache(channel, { place, archive: await caches.open(template, id), signal }).catch((error: Error) =>
      warn(`the cache of ${to} is empty: ${error.message}`),
    )
    await asRoot(channel, ['chmod', mode.toString(8), place], signal)
    await this.#give(place, { uid, gid })
    const keep = (archive: Readable) => caches.save(template, id, archive, { signal })
    if (!readOnly)
      this.#undo.push(() =>
        saveCache(channel, { place, keep, signal }).catch((error: Error) => {
          signal.throwIfAborted()
          warn(`the cache of ${to} is not kept: ${error.message}`)
        }),
      )
    await this.#bind(place, to, 'directory', { readOnly })
  }

  async #bind(
    from: string,
    to: string,
    kind: 'file' | 'directory',
    { readOnly }: { readOnly: boolean },
  ): Promise<void> {
    await this.#mount(to, kind, ['-o', 'bind', from])
    if (readOnly) await asRoot(this.#channel, ['mount', '-o', 'remount,ro,bind', from, to], this.#options.signal)
  }

  async #mount(to: string, kind: 'file' | 'directory', args: readonly string[]): Promise<void> {
    const { signal } = this.#options
    const point = await mountPoint(this.#channel, to, kind, signal)
    await asRoot(this.#channel, ['mount', ...args, to], signal)
    this.#undo.push(async () => {
      await asRoot(this.#channel, ['umount', '-l', to], signal)
      await point.remove()
    })
  }

  /** What is made is root's. */
  async #give(path: string, { uid, gid }: { uid: number; gid: number }): Promise<void> {
    if (uid !== 0 || gid !== 0) await asRoot(this.#channel, ['chown', `${uid}:${gid}`, path], this.#options.signal)
  }
}

async function asRoot(channel: GuestChannel, command: string[], signal: AbortSignal): Promise<void> {
  const { code, output } = await runCommand(channel, { command, surroundings: ownSurroundings, signal }).catch(
    (error) => {
      if (isMissing(error)) throw new Fault('invalid', `the image has no "${command[0]}", which --mount needs`)
      throw error
    },
  )
  if (code !== 0) throw new Fault('invalid', `"${command.join(' ')}" failed: ${lastLines(output.join('\n'), 2)}`)
}

function ifThere(error: unknown): void {
  if (!(error instanceof Fault) || error.code !== 'not_found') throw error
}
