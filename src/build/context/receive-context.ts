import { mkdir, rm } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import type { Attributes } from '../../images/attributes.ts'
import type { ContextEntry } from '../../recipe/context/tree.ts'
import { filesFault, readFiles } from './read-files.ts'

/** A received file: where its bytes are, and what they are. */
export interface ReceivedEntry extends ContextEntry {
  /** SHA-256 of a file's bytes, hex. */
  hash?: string
  /** A file of ours with the bytes. Nothing of the archive becomes a name in our file system. */
  file?: string
  /** Whose it is, where that is kept: in files of stages and images. */
  owner?: { uid: number; gid: number }
  /** Its extended attributes, where those are kept. */
  attributes?: Attributes
  /** The same for all names of one file. */
  inode?: string
  /** The URL that it comes from. */
  url?: string
}

export interface ReceivedContext extends AsyncDisposable {
  tree: ReadonlyMap<string, ReceivedEntry>
}

const maxEntries = 500_000
const what = 'the build context'

/** Takes a build context from an archive into a directory, which is removed again on disposal. */
export async function receiveContext(
  archive: Readable | undefined,
  { directory, signal }: { directory: string; signal: AbortSignal },
): Promise<ReceivedContext> {
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const remove = () => rm(directory, { recursive: true, force: true })
  try {
    const options = { directory, what, whole: false, maxEntries, signal }
    const tree = archive === undefined ? new Map() : await readFiles(archive, options)
    return { tree, [Symbol.asyncDispose]: remove }
  } catch (error) {
    await remove()
    signal.throwIfAborted()
    throw filesFault(error, what)
  }
}
