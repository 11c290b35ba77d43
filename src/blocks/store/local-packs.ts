import { type FileHandle, open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { sentence } from '../../model/fault.ts'
import { type Files, fileFault } from '../files.ts'
import { idAt, type PackIndex, placeAt, readPackIndex } from '../pack.ts'
import { type ChunkIndex, makeChunkIndex } from './chunk-index.ts'
import type { Workers } from './workers.ts'

/** A pack that lies in the store's directory: whole, or with holes where its chunks were not fetched yet. */
export interface LocalPack {
  readonly number: number
  readonly index: PackIndex
  readonly path: string
  /** Of a fetched pack, which chunks are here: 0 not, 1 here, 2 perhaps (from an earlier run). Absent for a whole pack. */
  readonly have?: Uint8Array
  /** Clock's monotonic ms when it was last read. */
  usedAt: number
}

/** All packs of a directory and what is in them. */
export interface LocalPacks extends AsyncDisposable {
  readonly chunks: ChunkIndex
  byName(name: string): LocalPack | undefined
  byNumber(number: number): LocalPack | undefined
  all(): Iterable<LocalPack>
  /** Reads the indexes of the packs that lie in a directory, or of those among them that are named. */
  scan(directory: string, kind: 'whole' | 'fetched', names?: readonly string[]): Promise<void>
  /** Forgets whole packs that somebody else removed from their directory. */
  forgetRemoved(directory: string): Promise<void>
  add(index: PackIndex, directory: string, kind: 'whole' | 'fetched'): LocalPack
  /** Forgets a pack and removes its file. */
  remove(pack: LocalPack): Promise<void>
  forget(pack: LocalPack): void
  /** A chunk, verified; undefined when its bytes are not there or not what they should be. */
  read(pack: LocalPack, entry: number): Promise<Buffer | undefined>
  /** Puts bytes into a fetched pack. */
  fill(pack: LocalPack, offset: number, bytes: Uint8Array): Promise<void>
}

const maxOpenFiles = 256

export function makeLocalPacks({
  workers,
  files,
  clock,
  log,
}: {
  workers: Workers
  files: Files
  clock: Clock
  log: Log
}): LocalPacks {
  const chunks = makeChunkIndex()
  const packs = new Map<number, LocalPack>()
  const names = new Map<string, LocalPack>()
  const handles = openFiles(maxOpenFiles)
  let lastNumber = -1

  const add: LocalPacks['add'] = (index, directory, kind) => {
    const known = names.get(index.name)
    if (known && (!known.have || kind === 'fetched')) return known
    if (known) forget(known)
    const number = ++lastNumber
    const have = kind === 'fetched' ? { have: new Uint8Array(index.count) } : {}
    const pack: LocalPack = { number, index, path: join(directory, index.name), usedAt: clock.monotonic(), ...have }
    packs.set(number, pack)
    names.set(index.name, pack)
    chunks.add(number, index.entries)
    return pack
  }

  const forget = (pack: LocalPack): void => {
    if (!packs.delete(pack.number)) return
    if (names.get(pack.index.name) === pack) names.delete(pack.index.name)
    chunks.remove(pack.number)
    handles.close(pack.path)
  }

  const scanOne = async (directory: string, name: string, kind: 'whole' | 'fetched'): Promise<void> => {
    const path = join(directory, name)
    try {
      await using handle = await open(path, 'r')
      const { size } = await handle.stat()
      const index = await readPackIndex(name, size, async (offset, length) => {
        const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(length), 0, length, offset)
        return buffer.subarray(0, bytesRead)
      })
      add(index, directory, kind).have?.fill(2)
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return
      if (kind === 'fetched') await files.remove(path).catch(() => {})
      else log.warn({ pack: name, directory }, `a pack cannot be used: ${sentence(error)}`)
    }
  }

  return {
    chunks,
    byName: (name) => names.get(name),
    byNumber: (number) => packs.get(number),
    all: () => packs.values(),
    add,
    forget,
    async forgetRemoved(directory) {
      const left = new Set(await readdir(directory))
      for (const pack of [...packs.values()]) if (!pack.have && !left.has(pack.index.name)) forget(pack)
    },
    async scan(directory, kind, names) {
      const found = names ?? (await readdir(directory)).filter((name) => /^[0-9a-f]{64}$/.test(name))
      let next = 0
      const lane = async () => {
        for (let name = found[next++]; name; name = found[next++]) await scanOne(directory, name, kind)
      }
      await Promise.all(Array.from({ length: 16 }, lane))
    },
    async remove(pack) {
      forget(pack)
      await files.remove(pack.path)
    },
    async read(pack, entry) {
      pack.usedAt = clock.monotonic()
      const place = placeAt(pack.index.entries, entry)
      try {
        return await handles.with(pack.path, pack.have ? 'r+' : 'r', ({ fd }) =>
          workers.read({ fd, id: idAt(pack.index.entries, entry), ...place }),
        )
      } catch (error) {
        if ((error as { code?: string }).code === 'ENOENT') {
          forget(pack)
          return undefined
        }
        throw fileFault(`cannot read pack ${pack.index.name}`, error)
      }
    },
    async fill(pack, offset, bytes) {
      try {
        await handles.with(pack.path, 'r+', async (handle) => {
          for (let at = 0; at < bytes.byteLength; ) {
            const { bytesWritten } = await handle.write(bytes, at, bytes.byteLength - at, offset + at)
            at += bytesWritten
          }
        })
      } catch (error) {
        throw fileFault(`cannot keep a part of pack ${pack.index.name}`, error)
      }
    },
    async [Symbol.asyncDispose]() {
      await handles.closeAll()
    },
  }
}

/** Open files by path, no more than `limit` that nobody is using. */
function openFiles(limit: number) {
  const open_ = new Map<string, { handle: Promise<FileHandle>; users: number; isClosing: boolean }>()
  const finish = (entry: { handle: Promise<FileHandle> }) =>
    entry.handle.then(
      (handle) => handle.close(),
      () => {},
    )
  const close = (path: string): void => {
    const entry = open_.get(path)
    if (!entry) return
    open_.delete(path)
    entry.isClosing = true
    if (entry.users === 0) finish(entry).catch(() => {})
  }
  return {
    async with<T>(path: string, flags: string, work: (handle: FileHandle) => Promise<T>): Promise<T> {
      let entry = open_.get(path)
      if (entry) open_.delete(path)
      else entry = { handle: open(path, flags), users: 0, isClosing: false }
      open_.set(path, entry)
      entry.users++
      try {
        return await work(await entry.handle)
      } catch (error) {
        if (open_.get(path) === entry) close(path)
        throw error
      } finally {
        entry.users--
        if (entry.isClosing && entry.users === 0) await finish(entry)
        else if (open_.size > limit)
          for (const [oldest, { users }] of open_) {
            if (open_.size <= limit) break
            if (users === 0) close(oldest)
          }
      }
    },
    close,
    async closeAll() {
      const all = [...open_.values()]
      open_.clear()
      await Promise.all(all.map(finish))
    },
  }
}
