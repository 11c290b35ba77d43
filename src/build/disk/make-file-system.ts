import { createHash } from 'node:crypto'
import { statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { AttributesByPath, Owners } from '../../images/owners.ts'
import { lastLine, runTool } from '../../images/run-tool.ts'
import { Fault } from '../../model/fault.ts'
import { setOwners } from './set-owners.ts'

/** With less than this left, what went wrong is that the node's disk is full. */
const fullBytes = 16 * 2 ** 20

export interface FileSystemOptions {
  /** A directory with the files, owned by those who shall own them in the guest, unless `owners` says whose they are. */
  root: string
  owners?: Owners | undefined
  /** With `owners`: those of the files, which an ordinary user cannot give them. */
  attributes?: AttributesByPath | undefined
  /** The sparse file to make. */
  file: string
  sizeMiB: number
  /** What it is made of, for people: `image "debian:12"`. */
  what: string
  /** The same seed and the same files give the same disk, up to the files' own times, so that little of it is stored again. */
  seed: string
  signal: AbortSignal
}

/**
 * An ext4 file system with the files of a directory; nothing is mounted. Tables are written now rather than by each guest
 * in the background, where every clone would pay for it. Owners and extended attributes are kept.
 */
export async function makeFileSystem(options: FileSystemOptions): Promise<void> {
  const { root, owners, attributes, file, sizeMiB, what, seed, signal } = options
  const uuid = uuidOf(seed)
  // The time is read by the tools as that of their own writing.
  const env = { E2FSPROGS_FAKE_TIME: '1', PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }
  const result = await runTool(
    'mkfs.ext4',
    ['-q', '-F', '-m', '0', '-U', uuid, '-E', `lazy_itable_init=0,lazy_journal_init=0,hash_seed=${uuid}`].concat([
      '-d',
      root,
      file,
      `${sizeMiB}M`,
    ]),
    { signal, env },
  )
  if (result.code === 0) {
    if (owners) await setOwners({ root, file, owners, attributes, what, env, signal })
    return
  }
  const said = `${result.stdout}\n${result.stderr}`
  const { bavail, bsize } = await statfs(dirname(file))
  if (bavail * bsize < fullBytes)
    throw new Fault(
      'exhausted',
      `the disk of this node is full: ${what} cannot be made a disk; free space, or collect builds`,
    )
  if (/could not allocate|no free space|no space left.*populat|ext2 filesystem.*full|inode.*allocat/i.test(said))
    throw new Fault('invalid', `${what} does not fit on a disk of ${sizeMiB} MiB; ask for a larger disk`)
  if (/no space left on device/i.test(said))
    throw new Fault('exhausted', `the disk of the node is full: cannot make a disk of ${what}; free space`)
  throw new Fault('unavailable', `cannot make a disk of ${what}: ${lastLine(result)}`)
}

function uuidOf(seed: string): string {
  const hex = createHash('sha256').update(seed).digest('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
