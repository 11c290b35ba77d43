import { posix } from 'node:path'
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
  const { mounts, secrets, template, caches, directory, warn, signal } = options
  const { files } = channel
  const undo: (() => Promise<void>)[] = []
  const env: Record<string, string> = {}
  const mount = async (to: string, kind: 'file' | 'directory', args: readonly string[]) => {
    const point = await mountPoint(channel, to, kind, signal)
    await asRoot(channel, ['mount', ...args, to], signal)
    undo.push(async () => {
      await asRoot(channel, ['umount', '-l', to], signal)
      await point.remove()
    })
  }
  const bind = async (from: string, to: string, kind: 'file' | 'directory', readOnly: boolean) => {
    await mount(to, kind, ['-o', 'bind', from])
    if (readOnly) await asRoot(channel, ['mount', '-o', 'remount,ro,bind', from, to], signal)
  }
  for (const [at, each] of mounts.entries()) {
    const place = posix.join(diskPlace, String(at))
    if (each.kind === 'tmpfs') {
      const size = each.bytes === undefined ? [] : [`size=${each.bytes}`]
      await mount(each.to, 'directory', ['-t', 'tmpfs', '-o', ['mode=1777', ...size].join(','), 'tmpfs'])
    } else if (each.kind === 'secret') {
      const given = Object.hasOwn(secrets, each.id) ? secrets[each.id] : undefined
      if (given === undefined && each.required)
        throw new Fault(
          'invalid',
          `secret "${each.id}" is required and was not given; say --secret id=${each.id},src=FILE`,
        )
      if (given === undefined) continue
      const bytes = Buffer.from(given, 'base64')
      if (each.env !== undefined) env[each.env] = bytes.toString('utf8')
      if (each.to === undefined) continue
      const file = posix.join(memoryPlace, String(at))
      const { uid, gid, mode = 0o400 } = each
      const writing = await files.write(file, { mode, signal })
      writing.end(bytes)
      await writing.written
      if (uid !== 0 || gid !== 0) await asRoot(channel, ['chown', `${uid}:${gid}`, file], signal)
      await bind(file, each.to, 'file', true)
    } else if (each.kind === 'bind') {
      const sources = await options.sourcesOf(mountKey(options.key, at), each.copy)
      const [first] = sources
      await files.makeDirectory(place, { signal })
      const settings = { to: `${place}/`, owner: undefined, mode: undefined, unpack: false, cwd: '/' }
      await copyFiles(channel, { sources, ...settings, directory, signal })
      const isFile = first?.found.kind === 'file'
      await bind(isFile ? posix.join(place, first.name) : place, each.to, isFile ? 'file' : 'directory', !each.writable)
    } else {
      const { to, id, readOnly, uid, gid, mode = 0o755 } = each
      await files.makeDirectory(place, { signal })
      await restoreCache(channel, { place, archive: await caches.open(template, id), signal }).catch((error: Error) =>
        warn(`the cache of ${to} is empty: ${error.message}`),
      )
      await asRoot(channel, ['chmod', mode.toString(8), place], signal)
      if (uid !== 0 || gid !== 0) await asRoot(channel, ['chown', `${uid}:${gid}`, place], signal)
      if (!readOnly)
        undo.push(() =>
          saveCache(channel, {
            place,
            signal,
            keep: (archive) => caches.save(template, id, archive, { signal }),
          }).catch((error: Error) => {
            signal.throwIfAborted()
            warn(`the cache of ${to} is not kept: ${error.message}`)
          }),
        )
      await bind(place, to, 'directory', readOnly)
    }
  }
  const onDisk = mounts.some(({ kind }) => kind === 'bind' || kind === 'cache')
  return {
    env,
    async takeAway() {
      for (const each of undo.toReversed()) await each()
      await files.remove(memoryPlace, { signal }).catch(ifThere)
      if (!onDisk) return
      await files.remove(diskPlace, { signal }).catch(ifThere)
      // What was removed would otherwise still be among the blocks of the layer.
      await channel.shrink({ signal })
    },
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
