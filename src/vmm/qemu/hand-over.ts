import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  copyFileSync,
  fchownSync,
  fstatSync,
  openSync,
  readdirSync,
  rmSync,
  statfsSync,
  statSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { Isolation } from '../isolation/isolation.ts'
import { filesOf, type Reach } from './command.ts'
import type { QemuProcess } from './process.ts'

/** The descriptors that a process begins with, ours until it has them: disposing closes our side. */
export class Inherited implements Disposable {
  readonly stdio: ('ignore' | number)[] = ['ignore']
  readonly #owned: number[] = []

  /** Gives the number by which the process has it. */
  add(fd: number): number {
    this.#owned.push(fd)
    return this.stdio.push(fd) - 1
  }

  [Symbol.dispose](): void {
    for (const fd of this.#owned) closeSync(fd)
  }
}

/**
 * For a QEMU that is a user of its own: all that it needs is opened here. In its directory it can make nothing and replace
 * nothing, so that whoever goes there by name finds what we put there.
 */
export function byDescriptor(directory: string, uid: number, isolation: Isolation, inherited: Inherited): Reach {
  const files = filesOf(directory)
  chmodSync(directory, 0o711)
  emptyFileFor(files.console, uid)
  const listening = (path: string) => {
    rmSync(path, { force: true })
    return `fd=${inherited.add(isolation.native.listenAt(path))}`
  }
  return {
    monitor: listening(files.monitor),
    channel: listening(files.channel),
    console: basename(files.console),
    file: (path, use) => {
      if (use === 'private memory') return inSelf(inherited.add(openPrivateMemory(path, isolation)))
      return inSelf(inherited.add(use === 'read' ? openReadable(path, directory, uid) : openOwn(path, uid)))
    },
  }
}

/** A file that this user may write to, and nobody else reads. */
export function emptyFileFor(path: string, uid: number): void {
  rmSync(path, { force: true })
  const fd = openSync(path, 'wx', 0o600)
  closeSync(fd)
  chownSync(path, uid, uid)
}

/** Opens memory for a process that maps it privately: many have the same, so nobody may be able to write it. */
export function openPrivateMemory(path: string, isolation: Isolation): number {
  const fd = openSync(path, 'r+')
  const isInMemory = statfsSync(path).type === tmpfs
  if (!isInMemory || isolation.native.isSealed(fd)) return fd
  closeSync(fd)
  throw new Fault(
    'invalid',
    `the memory at ${path} is not sealed: the machine that is given it could change it for others`,
  )
}

/** Hands an open file to a running QEMU, one at a time; gives the name by which QEMU can open it anew. */
export async function handFile(process: QemuProcess, isolation: Isolation, given: HandOptions): Promise<string> {
  const { dev, ino } = fstatSync(given.fd, { bigint: true })
  await handDescriptor(process, isolation, given)
  const own = `/proc/${process.mark.pid}/fd`
  const number = readdirSync(own).find((name) => {
    const found = statSync(`${own}/${name}`, { bigint: true, throwIfNoEntry: false })
    return found?.ino === ino && found.dev === dev
  })
  if (number === undefined) throw new Fault('unavailable', 'QEMU did not take the file that it was handed')
  return inSelf(number)
}

/**
 * Hands over a descriptor, which QEMU then knows by this name; ours is closed. Before it has made its machine it gives
 * none a name; one that comes along with a question it has until the next comes, which is long enough to open it by.
 */
export async function handDescriptor(
  { qmp }: QemuProcess,
  { native }: Isolation,
  { fd, name, signal }: HandOptions,
): Promise<void> {
  try {
    const say = (socket: number, bytes: Uint8Array) => native.sendWith(socket, bytes, fd)
    if (name === undefined) await qmp.execute('query-version', {}, { signal, say })
    else await qmp.execute('getfd', { fdname: name }, { signal, say })
  } finally {
    closeSync(fd)
  }
}

export interface HandOptions {
  fd: number
  name?: string
  signal: AbortSignal
}

/**
 * A socket by way of its directory, which alone is handed over: the socket of a server that comes back is another one, in
 * the same place.
 */
export async function handSocket(
  process: QemuProcess,
  isolation: Isolation,
  { path, name, signal }: { path: string; name: string; signal: AbortSignal },
): Promise<string> {
  const fd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
  return `${await handFile(process, isolation, { fd, name, signal })}/${basename(path)}`
}

/** The process opens it once more, by its own right. */
function openReadable(path: string, directory: string, uid: number): number {
  const fd = openSync(path, 'r')
  if ((fstatSync(fd).mode & 0o004) !== 0) return fd
  closeSync(fd)
  const copy = join(directory, basename(path))
  emptyFileFor(copy, uid)
  copyFileSync(path, copy)
  return openSync(copy, 'r')
}

/** The memory of a machine that boots is its own. */
function openOwn(path: string, uid: number): number {
  const fd = openSync(path, 'r+')
  if ((fstatSync(fd).mode & 0o002) === 0) fchownSync(fd, uid, uid)
  return fd
}

function inSelf(number: number | string): string {
  return `/proc/self/fd/${number}`
}

/** https://man7.org/linux/man-pages/man2/statfs.2.html */
const tmpfs = 0x0102_1994
