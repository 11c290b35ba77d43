import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { extract, type Header } from 'tar-stream'
import { Fault } from '../../model/fault.ts'
import type { ContextEntry } from '../../recipe/context/tree.ts'

/** A received file: where its bytes are, and what they are. */
export interface ReceivedEntry extends ContextEntry {
  /** SHA-256 of a file's bytes, hex. */
  hash?: string
  /** A file of ours with the bytes. Nothing of the archive becomes a name in our file system. */
  file?: string
}

export interface ReceivedContext extends AsyncDisposable {
  tree: ReadonlyMap<string, ReceivedEntry>
}

const maxEntries = 500_000

/** Takes a build context from an archive into a directory, which is removed again on disposal. */
export async function receiveContext(
  archive: Readable | undefined,
  { directory, signal }: { directory: string; signal: AbortSignal },
): Promise<ReceivedContext> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const remove = () => rm(directory, { recursive: true, force: true })
  try {
    const tree = archive === undefined ? new Map() : await readArchive(archive, directory, signal)
    return { tree, [Symbol.asyncDispose]: remove }
  } catch (error) {
    await remove()
    throw error
  }
}

async function readArchive(archive: Readable, directory: string, signal: AbortSignal) {
  const tree = new Map<string, ReceivedEntry>()
  const entries = extract()
  // Errors and abortion come out of the loop below.
  const feeding = pipeline(archive, entries, { signal })
  feeding.catch(() => {})
  try {
    for await (const entry of entries) {
      const received = readHeader(entry.header)
      if (received.type === 'file')
        Object.assign(received, await keep(entry, join(directory, String(tree.size)), signal))
      else entry.resume()
      if (received.path !== '') tree.set(received.path, received)
      if (tree.size > maxEntries) throw new Fault('invalid', `the build context has over ${maxEntries} files`)
    }
    await feeding
    addDirectories(tree)
  } catch (error) {
    signal.throwIfAborted()
    throw contextFault(error)
  }
  return tree
}

/** Archives may leave out the directories above a file. */
function addDirectories(tree: Map<string, ReceivedEntry>): void {
  for (const path of [...tree.keys()])
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      const above = path.slice(0, at)
      if (!tree.has(above)) tree.set(above, { path: above, type: 'directory', mode: 0o755, size: 0, changedAt: 0 })
    }
}

function readHeader({ name, type, mode, size, mtime, linkname }: Header): ReceivedEntry {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.')
  if (parts.includes('..') || name.includes('\0'))
    throw new Fault('invalid', `the build context holds "${name}", which lies outside of it`)
  const shared = {
    path: parts.join('/'),
    mode: (mode ?? 0o644) & 0o7777,
    changedAt: Math.max(0, Math.floor((mtime?.getTime() ?? 0) / 1000)),
  }
  if (type === 'directory') return { ...shared, type: 'directory', size: 0 }
  if (type === 'symlink') return { ...shared, type: 'link', size: 0, target: linkname ?? '' }
  if (type === 'file' || type === 'contiguous-file') return { ...shared, type: 'file', size: size ?? 0 }
  throw new Fault('invalid', `the build context holds "${name}", which is no file, directory or symbolic link`)
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

function contextFault(error: unknown): Fault {
  if (error instanceof Fault) return error
  if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
    return new Fault('exhausted', 'the disk of the node is full: the build context does not fit; free space', {
      cause: error,
    })
  return new Fault('invalid', 'the build context did not arrive whole', { cause: error })
}
