import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { extract, type Header } from 'tar-stream'
import { listenForAttributes } from '../../images/attributes.ts'
import { Fault } from '../../model/fault.ts'
import type { ReceivedEntry } from './receive-context.ts'

export interface ReadFilesOptions {
  /** Where the bytes of files are put; exists. */
  directory: string
  /** What the archive holds, for people: `the build context`. */
  what: string
  /** Whether owners count, several names of one file are one, and what is no file is left out rather than refused. */
  whole: boolean
  maxEntries: number
  signal: AbortSignal
}

/** The entries of a tar archive, with all directories above them. Fails with what the archive or the disk is at fault for. */
export async function readFiles(archive: Readable, options: ReadFilesOptions): Promise<Map<string, ReceivedEntry>> {
  const { directory, what, whole, maxEntries, signal } = options
  const tree = new Map<string, ReceivedEntry>()
  const entries = extract()
  // Errors and abortion come out of the loop below.
  const { stream, of } = listenForAttributes()
  const feeding = pipeline(archive, stream, entries, { signal })
  feeding.catch(() => {})
  let number = 0
  for await (const entry of entries) {
    const received = readHeader(entry.header, options, tree)
    const attributes = whole ? of(entry.header) : undefined
    if (received && attributes) received.attributes = attributes
    if (received?.type === 'file' && received.file === undefined) {
      number += 1
      Object.assign(received, await keep(entry, join(directory, String(number)), signal))
    } else entry.resume()
    if (received && received.path !== '') tree.set(received.path, received)
    if (tree.size > maxEntries) throw new Fault('invalid', `${what} has over ${maxEntries} files`)
  }
  await feeding
  addDirectories(tree, whole)
  return tree
}

/** Archives may leave out the directories above a file. */
function addDirectories(tree: Map<string, ReceivedEntry>, whole: boolean): void {
  const owner = whole ? { owner: { uid: 0, gid: 0 } } : {}
  for (const path of [...tree.keys()])
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      const above = path.slice(0, at)
      if (!tree.has(above))
        tree.set(above, { path: above, type: 'directory', mode: 0o755, size: 0, changedAt: 0, ...owner })
    }
}

function readHeader(
  { name, type, mode, size, mtime, linkname, uid, gid }: Header,
  { what, whole }: ReadFilesOptions,
  tree: ReadonlyMap<string, ReceivedEntry>,
): ReceivedEntry | undefined {
  const path = cleanName(name, what)
  const shared = {
    path,
    mode: (mode ?? 0o644) & 0o7777,
    changedAt: Math.max(0, Math.floor((mtime?.getTime() ?? 0) / 1000)),
    ...(whole ? { owner: { uid: uid ?? 0, gid: gid ?? 0 } } : {}),
  }
  if (type === 'directory') return { ...shared, type: 'directory', size: 0 }
  if (type === 'symlink') return { ...shared, type: 'link', size: 0, target: linkname ?? '' }
  if (type === 'file' || type === 'contiguous-file') return { ...shared, type: 'file', size: size ?? 0 }
  if (!whole) throw new Fault('invalid', `${what} holds "${name}", which is no file, directory or symbolic link`)
  const other = type === 'link' ? tree.get(cleanName(linkname ?? '', what)) : undefined
  if (other === undefined) return undefined
  other.inode ??= other.path
  return { ...other, path }
}

function cleanName(name: string, what: string): string {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.includes('..') || name.includes('\0'))
    throw new Fault('invalid', `${what} holds "${name}", which lies outside of it`)
  return parts.join('/')
}

async function keep(bytes: AsyncIterable<unknown>, file: string, signal: AbortSignal) {
  const hash = createHash('sha256')
  const hashing = new Transform({
    transform(chunk, _, done) {
      hash.update(chunk)
      done(null, chunk)
    },
  })
  await pipeline(Readable.from(bytes), hashing, createWriteStream(file, { mode: 0o600 }), { signal })
  return { hash: hash.digest('hex'), file }
}

/** What went wrong while files were read, for people. */
export function filesFault(error: unknown, what: string): Fault {
  if (error instanceof Fault) return error
  if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
    return new Fault('exhausted', `the disk of the node is full: ${what} does not fit; free space`, { cause: error })
  return new Fault('invalid', `${what} did not arrive whole`, { cause: error })
}
