import { createReadStream } from 'node:fs'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline, type Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { Fault } from '../../model/fault.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import { byPath } from '../../recipe/context/tree.ts'
import { readFiles } from '../context/read-files.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'

const maxEntries = 500_000

/** An archive that ADD names becomes what is in it; undefined for any other file. Told by its contents, as in Docker. */
export async function unpackedSource(
  { name, found }: Selected<ReceivedEntry>,
  { directory, signal }: { directory: string; signal: AbortSignal },
): Promise<({ source: Selected<ReceivedEntry> } & AsyncDisposable) | undefined> {
  if (found.kind !== 'file' || found.entry.file === undefined || found.entry.url !== undefined) return undefined
  const kind = await kindOf(found.entry.file)
  if (kind === undefined) return undefined
  if (kind === 'bzip2' || kind === 'xz')
    throw new Fault('invalid', `ADD does not unpack ${kind}: "${name}"; COPY it and unpack it in RUN`)
  const file = createReadStream(found.entry.file)
  // Errors of either come out of whoever reads the end.
  const stream: Readable =
    kind === 'tar' ? file : pipeline(file, kind === 'gzip' ? createGunzip() : createZstdDecompress(), () => {})
  const place = await mkdtemp(join(directory, 'archive-'))
  try {
    const what = `the archive "${name}"`
    const tree = await readFiles(stream, { directory: place, what, whole: true, maxEntries, signal })
    const entries = [...tree.values()].sort(byPath).map((entry) => ({ below: entry.path, entry }))
    return {
      source: { name, found: { kind: 'directory', entries } },
      [Symbol.asyncDispose]: () => rm(place, { recursive: true, force: true }),
    }
  } catch (error) {
    await rm(place, { recursive: true, force: true })
    signal.throwIfAborted()
    if (error instanceof Fault) throw error
    // A compressed file that is no archive is copied as it is.
    if (kind !== 'tar') return undefined
    throw new Fault('invalid', `the archive "${name}" cannot be unpacked`, { cause: error })
  }
}

async function kindOf(file: string): Promise<'tar' | 'gzip' | 'zstd' | 'bzip2' | 'xz' | undefined> {
  await using handle = await open(file)
  const head = Buffer.alloc(512)
  const { bytesRead } = await handle.read(head, 0, head.length, 0)
  const begins = (hex: string) => head.subarray(0, bytesRead).toString('hex').startsWith(hex)
  if (begins('1f8b')) return 'gzip'
  if (begins('28b52ffd')) return 'zstd'
  if (begins('425a68')) return 'bzip2'
  if (begins('fd377a585a00')) return 'xz'
  return head.subarray(257, 262).toString('latin1') === 'ustar' ? 'tar' : undefined
}
