import { join } from 'node:path'
import type { Random } from '../../kit/random.ts'
import { type Files, fileFault, type NewFile, putInPlace } from '../files.ts'
import { entryBytes, maxPackBytes, type PackIndex, packHead, sealPack, writeEntry } from '../pack.ts'

/** A chunk as it is to be stored. */
export interface StoredChunk {
  id: Uint8Array
  stored: Uint8Array
  bytes: number
  isCompressed: boolean
}

/** Packs as they are written: chunks are appended, and every pack that is full or asked for is sealed. */
export interface PackWriter {
  /** Resolves when the bytes are in the file, which is not yet durable. The place is taken at once. */
  append(chunks: readonly StoredChunk[]): Promise<void>
  /** Makes everything durable under its name; gives all packs that were sealed since the beginning. */
  finish(): Promise<readonly PackIndex[]>
  /** Removes what was not sealed. */
  drop(): Promise<void>
}

/** Bytes after which a sync is begun, so that the last one has little to wait for. */
const syncEvery = 8 * 1024 * 1024

export function writePacks({
  directory,
  random,
  files,
  onSealed,
}: {
  directory: string
  random: Random
  files: Files
  /** A pack is durable and has its name. */
  onSealed: (pack: PackIndex) => void
}): PackWriter {
  const sealed: Promise<PackIndex>[] = []
  let current: OpenPack | undefined
  const seal = (pack: OpenPack): void => {
    const done = pack.seal().then((index) => {
      onSealed(index)
      return index
    })
    done.catch(() => {})
    sealed.push(done)
  }
  return {
    async append(chunks) {
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.stored.byteLength, 0)
      if (current && !current.hasRoomFor(bytes, chunks.length)) {
        seal(current)
        current = undefined
      }
      current ??= openPack({ directory, random, files })
      await current.append(chunks, bytes)
    },
    async finish() {
      if (current) seal(current)
      current = undefined
      return Promise.all(sealed)
    },
    async drop() {
      await current?.drop()
      current = undefined
      await Promise.allSettled(sealed)
    },
  }
}

interface OpenPack {
  hasRoomFor(bytes: number, chunks: number): boolean
  append(chunks: readonly StoredChunk[], bytes: number): Promise<void>
  seal(): Promise<PackIndex>
  drop(): Promise<void>
}

function openPack({ directory, random, files }: { directory: string; random: Random; files: Files }): OpenPack {
  const path = join(directory, 'tmp', `pack-${Buffer.from(random.bytes(8)).toString('hex')}`)
  const opening: Promise<NewFile> = files.create(path)
  const writes = new Set<Promise<void>>()
  let entries: Buffer = Buffer.alloc(1024 * entryBytes)
  let count = 0
  let end = packHead.length
  let failure: unknown
  let unsynced = 0
  let syncing: Promise<void> | undefined

  const track = (write: Promise<void>): Promise<void> => {
    const tracked = write.catch((error: unknown) => {
      failure ??= fileFault(`cannot write a pack in ${directory}`, error)
      throw failure
    })
    tracked.catch(() => {})
    writes.add(tracked)
    tracked.finally(() => writes.delete(tracked)).catch(() => {})
    return tracked
  }
  void track(opening.then((file) => file.write([packHead], 0)))

  const enter = (chunk: StoredChunk, offset: number): void => {
    if ((count + 1) * entryBytes > entries.length) entries = Buffer.concat([entries, Buffer.alloc(entries.length)])
    const { bytes, isCompressed } = chunk
    writeEntry(entries, count * entryBytes, chunk.id, {
      offset,
      storedBytes: chunk.stored.byteLength,
      bytes,
      isCompressed,
    })
    count++
  }

  const drop = async (): Promise<void> => {
    const file = await opening.catch(() => undefined)
    await Promise.allSettled(writes)
    await syncing?.catch(() => {})
    await file?.close().catch(() => {})
    await files.remove(path).catch(() => {})
  }

  return {
    hasRoomFor: (bytes, chunks) => end + bytes + (count + chunks) * entryBytes + 64 <= maxPackBytes,
    append(chunks, bytes) {
      const start = end
      end += bytes
      let offset = start
      for (const chunk of chunks) {
        enter(chunk, offset)
        offset += chunk.stored.byteLength
      }
      return track(
        opening.then(async (file) => {
          await file.write(
            chunks.map((chunk) => chunk.stored),
            start,
          )
          unsynced += bytes
          if (unsynced < syncEvery || syncing) return
          unsynced = 0
          syncing = file.sync().finally(() => {
            syncing = undefined
          })
          void track(syncing)
        }),
      )
    },
    async seal() {
      try {
        const file = await opening
        while (writes.size > 0) await Promise.allSettled(writes)
        if (failure !== undefined) throw failure
        const index = Buffer.from(entries.subarray(0, count * entryBytes))
        const { name, trailer } = sealPack(index, end)
        await file.write([trailer], end)
        await file.sync()
        await file.close()
        await putInPlace(files, path, join(directory, 'packs', name))
        return { name, entries: index, count, size: end + trailer.length }
      } catch (error) {
        await drop()
        throw fileFault(`cannot write a pack in ${directory}`, error)
      }
    },
    drop,
  }
}
