import {
  closeSync,
  fdatasync,
  ftruncateSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../../kit/clock.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ContentStore, ImageReader } from '../content.ts'
import type { Image } from '../manifest.ts'
import { ImageFiller } from './image-filler.ts'
import type { LocalImage } from './local-image.ts'

const datasync = promisify(fdatasync)

/** A build's disk on this machine, while somebody uses it. */
export interface OpenBase {
  key: string
  image: LocalImage
  disk: Image
  reader: ImageReader
  filler: ImageFiller
  release(): Promise<void>
}

export interface BasesOptions {
  directory: string
  content: ContentStore
  clock: Clock
  /** Bytes that the files of disks nobody uses may take; beyond it the ones used longest ago go, down to three quarters. */
  keptBytes: number
}

interface Held extends Omit<OpenBase, 'release'> {
  users: number
  path: string
  packs: readonly string[]
  /** Chunks that a clone is known to read first. */
  prefetch: readonly number[]
}

/**
 * The disks of builds as sparse files, filled chunk by chunk as they are read, so that a chunk is fetched and decompressed
 * once for each machine and read as plain bytes from then on. They are kept when nobody uses them any more, within limits.
 */
export class Bases {
  readonly #options: BasesOptions
  readonly #held = new Map<BuildId, Promise<Held>>()
  /** Those that are being put away; who wants one of them waits. */
  readonly #closing = new Map<BuildId, Promise<void>>()

  constructor(options: BasesOptions) {
    this.#options = options
  }

  async open(build: BuildId): Promise<OpenBase> {
    await this.#closing.get(build)
    let opening = this.#held.get(build)
    if (opening === undefined) {
      opening = this.#open(build)
      this.#held.set(build, opening)
      opening.catch(() => this.#held.delete(build))
    }
    const held = await opening
    held.users += 1
    let isReleased = false
    return {
      ...held,
      release: async () => {
        if (isReleased) return
        isReleased = true
        held.users -= 1
        if (held.users > 0) return
        this.#held.delete(build)
        const closing = this.#close(held).finally(() => this.#closing.delete(build))
        this.#closing.set(build, closing)
        await closing
      },
    }
  }

  /** The one that is open under this key. */
  async find(key: string): Promise<ImageFiller | undefined> {
    return (await this.#held.get(key as BuildId))?.filler
  }

  /** Brings near what a clone is known to read first, if the build's disk is open. */
  async prefetch(build: BuildId, options: { signal: AbortSignal }): Promise<void> {
    const held = await this.#held.get(build)
    await held?.filler.bring(held.prefetch, options)
  }

  async #open(build: BuildId): Promise<Held> {
    const { directory, content } = this.#options
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const manifest = await content.manifest(build)
    const { disk, packs, snapshot } = manifest
    const reader = await content.open(disk, { packs, build })
    const path = join(directory, build)
    const bits = new Uint8Array(new SharedArrayBuffer(Math.ceil(disk.size / disk.chunkBytes / 8) + 1))
    const known = readBits(path)
    if (known?.length === bits.length) bits.set(known)
    const fd = openSync(path, known ? 'r+' : 'w+', 0o600)
    ftruncateSync(fd, disk.size)
    rmSync(bitsPath(path), { force: true }) // written again when all is on the disk
    const image = { fd, size: disk.size, chunkBytes: disk.chunkBytes, bits }
    const filler = new ImageFiller(image, reader)
    return { key: build, image, disk, reader, filler, prefetch: snapshot?.prefetchDisk ?? [], users: 0, path, packs }
  }

  async #close(held: Held): Promise<void> {
    await held.filler.close()
    await keepBits(held)
    closeSync(held.image.fd)
    const now = this.#options.clock.now() / 1000
    utimesSync(held.path, now, now)
    await this.#evict()
  }

  async #evict(): Promise<void> {
    const { directory, keptBytes } = this.#options
    const idle: { path: string; bytes: number; usedAt: number }[] = []
    for (const name of await readdir(directory)) {
      if (name.includes('.') || this.#held.has(name as BuildId)) continue
      const { blocks, mtimeMs } = statSync(join(directory, name))
      idle.push({ path: join(directory, name), bytes: blocks * 512, usedAt: mtimeMs })
    }
    let total = idle.reduce((sum, { bytes }) => sum + bytes, 0)
    if (total <= keptBytes) return
    for (const { path, bytes } of idle.sort((a, b) => a.usedAt - b.usedAt)) {
      if (total <= keptBytes * 0.75) return
      rmSync(bitsPath(path), { force: true })
      rmSync(path, { force: true })
      total -= bytes
    }
  }
}

/** Data first, then what is said of it. */
async function keepBits({ path, image }: Held): Promise<void> {
  const bits = Buffer.from(image.bits)
  await datasync(image.fd)
  await writeFile(`${bitsPath(path)}.new`, bits, { mode: 0o600 })
  renameSync(`${bitsPath(path)}.new`, bitsPath(path))
}

function readBits(path: string): Buffer | undefined {
  try {
    return readFileSync(bitsPath(path))
  } catch {
    return undefined
  }
}

function bitsPath(path: string): string {
  return `${path}.bits`
}
