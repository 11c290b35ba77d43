import { chmodSync, closeSync, constants, fstatSync, openSync, readdirSync, rmSync, statSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { Fault } from '../../model/fault.ts'
import { emptyFileFor, openOwn, openPrivateMemory, openReadable } from '../isolation/given-files.ts'
import { type Inherited, inSelf } from '../isolation/inherited.ts'
import type { Isolation } from '../isolation/isolation.ts'
import { filesOf, type Reach } from './command.ts'
import type { QemuProcess } from './process.ts'

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
 * the same place. Not as a directory of this machine's, through which all others would be reached, but as one by itself.
 */
export async function handSocket(
  process: QemuProcess,
  isolation: Isolation,
  { path, name, signal }: { path: string; name: string; signal: AbortSignal },
): Promise<string> {
  const fd = openAlone(dirname(path), isolation)
  return `${await handFile(process, isolation, { fd, name, signal })}/${basename(path)}`
}

function openAlone(directory: string, { native }: Isolation): number {
  const mount = native.mountOf(directory)
  try {
    return openSync(inSelf(mount), constants.O_RDONLY | constants.O_DIRECTORY)
  } finally {
    closeSync(mount)
  }
}
