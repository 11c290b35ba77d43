import {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  copyFileSync,
  fchownSync,
  fstatSync,
  openSync,
  rmSync,
  statfsSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { Isolation } from './isolation.ts'

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

/** For a process that opens it once more, by its own right; of what not everybody may read it gets a copy. */
export function openReadable(path: string, directory: string, uid: number): number {
  const fd = openSync(path, 'r')
  if ((fstatSync(fd).mode & 0o004) !== 0) return fd
  closeSync(fd)
  const copy = join(directory, basename(path))
  rmSync(copy, { force: true })
  copyFileSync(path, copy, constants.COPYFILE_EXCL)
  chmodSync(copy, 0o400)
  chownSync(copy, uid, uid)
  return openSync(copy, 'r')
}

/** The memory of a machine that boots is its own. */
export function openOwn(path: string, uid: number): number {
  const fd = openSync(path, 'r+')
  if ((fstatSync(fd).mode & 0o002) === 0) fchownSync(fd, uid, uid)
  return fd
}

/** https://man7.org/linux/man-pages/man2/statfs.2.html */
const tmpfs = 0x0102_1994
