import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { ContentStore, ImageReader } from '../content.ts'
import type { Image } from '../manifest.ts'
import { availableMemory, hugePageBytes, loadLibc } from '../memory/libc.ts'
import { ImageFiller } from './image-filler.ts'
import type { LocalImage } from './local-image.ts'

/** A memory as a file that programs may map: without a name where the system has such files, else in a directory. */
export interface MemoryFile {
  fd: number
  /** Where others open it. */
  path: string
  remove(): Promise<void>
}

export interface HeldMemory {
  build: BuildId
  image: Image
  reader: ImageReader
  local: LocalImage
  filler: ImageFiller
  file: MemoryFile
  /** Bytes that it takes while it is held. */
  bytes: number
  holders: Set<string>
  /** Chunks that a clone touches first, in that order. */
  prefetch: readonly number[]
  /** Everything is there; sealed too, where files can be. */
  isComplete: boolean
  isSealed: boolean
  /** Brings all of it, once, and says when that is done; may be asked again after it failed. */
  complete(): Promise<void>
}

export interface MemoriesOptions {
  /** For memories where there are no files without a name. */
  directory: string
  content: ContentStore
  /** Bytes of memories that nobody holds; beyond it those used longest ago go, down to three quarters. */
  keptBytes: number
  /** Bytes that stay free for the machine itself. */
  reservedBytes: number
}

/** How memory is given to machines here: `memfd`, which can be sealed, or `file`. */
export type MemoryMethod = 'memfd' | 'file'

export function memoryMethod(): MemoryMethod {
  return loadLibc() === undefined ? 'file' : 'memfd'
}

/** The memory images of builds, one for all machines of a build, and the memories of machines that boot. */
export class Memories {
  readonly #options: MemoriesOptions
  /** In the order in which they were used, coldest first. */
  readonly #held = new Map<BuildId, Promise<HeldMemory>>()
  readonly #fresh = new Map<string, { file: MemoryFile; size: number; isHuge: boolean }>()

  constructor(options: MemoriesOptions) {
    this.#options = options
  }

  /**
   * Of a machine that boots: empty, writable, the machine's own. With `mayBeHuge` it lies in pages of 2 MiB if the system has
   * set aside enough of them and nobody has them; all of them are promised to it here and now, or none.
   */
  newMemory(name: string, size: number, { mayBeHuge = false }: { mayBeHuge?: boolean } = {}): string {
    const known = this.#fresh.get(name)
    if (known) {
      if (known.size !== size) throw new Fault('conflict', `memory ${name} has ${known.size} bytes, not ${size}`)
      return known.file.path
    }
    const huge = mayBeHuge ? this.#makeHugeFile(freshMemoryName(name), size) : undefined
    // What is set aside is not counted as free, and takes nothing of what is.
    if (huge === undefined) this.#checkRoom(size, `memory ${name}`)
    const file = huge ?? this.#makeFile(freshMemoryName(name), size)
    this.#fresh.set(name, { file, size, isHuge: huge !== undefined })
    return file.path
  }

  listNew(): { name: string; size: number; isHuge: boolean }[] {
    return [...this.#fresh].map(([name, { size, isHuge }]) => ({ name, size, isHuge }))
  }

  async closeMemory(name: string): Promise<void> {
    await this.#fresh.get(name)?.file.remove()
    this.#fresh.delete(name)
  }

  /** The build's memory; `complete` resolves when all of it is there. */
  async open(build: BuildId, holder: string): Promise<HeldMemory> {
    let opening = this.#held.get(build)
    if (opening === undefined) {
      opening = this.#start(build)
      opening.catch(() => this.#held.delete(build))
    } else this.#held.delete(build)
    this.#held.set(build, opening) // now the last one used
    const held = await opening
    held.holders.add(holder)
    return held
  }

  async release(build: BuildId, holder: string): Promise<void> {
    const held = await this.#held.get(build)
    held?.holders.delete(holder)
    if (held?.holders.size === 0 && !held.isComplete) await this.#drop(held)
    await this.#evict(this.#options.keptBytes)
  }

  async find(build: BuildId): Promise<HeldMemory | undefined> {
    return await this.#held.get(build)?.catch(() => undefined)
  }

  async list(): Promise<HeldMemory[]> {
    const all = await Promise.allSettled(this.#held.values())
    return all.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const held of await this.list()) await this.#drop(held)
    for (const name of [...this.#fresh.keys()]) await this.closeMemory(name)
  }

  async #start(build: BuildId): Promise<HeldMemory> {
    const { content } = this.#options
    const { snapshot, packs } = await content.manifest(build)
    if (snapshot === null) throw new Fault('invalid', `build ${build} is of a disk only: it has no memory, and boots`)
    const image = snapshot.memory
    const reader = await content.open(image, { packs, build })
    const bytes = dataBytes(reader, image)
    await this.#makeRoom(bytes, `the memory of build ${build}`)
    const file = this.#makeFile(buildMemoryName(build), image.size)
    const bits = new Uint8Array(new SharedArrayBuffer(Math.ceil(image.size / image.chunkBytes / 8) + 1))
    const local: LocalImage = { fd: file.fd, size: image.size, chunkBytes: image.chunkBytes, bits }
    const filler = new ImageFiller(local, reader)
    let completing: Promise<void> | undefined
    const held: HeldMemory = {
      build,
      image,
      reader,
      local,
      filler,
      file,
      bytes,
      holders: new Set(),
      prefetch: snapshot.prefetch,
      isComplete: false,
      isSealed: false,
      complete: () => {
        completing ??= this.#complete(held).catch((error: unknown) => {
          completing = undefined
          throw error
        })
        return completing
      },
    }
    return held
  }

  async #complete(held: HeldMemory): Promise<void> {
    await held.filler.fill(0, held.filler.chunks - 1)
    held.isSealed = loadLibc()?.seal(held.file.fd) ?? false
    held.isComplete = true
  }

  #makeFile(name: string, size: number): MemoryFile {
    const libc = loadLibc()
    const path = libc ? undefined : join(this.#options.directory, name)
    const fd = path === undefined ? (libc as NonNullable<typeof libc>).memfd(name) : openSync(path, 'w+', 0o600)
    ftruncateSync(fd, size)
    return memoryFile(fd, path)
  }

  #makeHugeFile(name: string, size: number): MemoryFile | undefined {
    const fd = size % hugePageBytes === 0 ? loadLibc()?.hugeMemfd(name, size) : undefined
    return fd === undefined ? undefined : memoryFile(fd)
  }

  async #makeRoom(bytes: number, what: string): Promise<void> {
    if (bytes + this.#options.reservedBytes > availableMemory()) await this.#evict(0)
    this.#checkRoom(bytes, what)
  }

  #checkRoom(bytes: number, what: string): void {
    const available = availableMemory()
    if (bytes + this.#options.reservedBytes <= available) return
    const MiB = (value: number) => Math.ceil(value / 2 ** 20)
    throw new Fault(
      'exhausted',
      `${what} needs ${MiB(bytes)} MiB, and this node has ${MiB(available)} MiB of memory left, ` +
        `of which ${MiB(this.#options.reservedBytes)} stay free; stop something, or use another node`,
    )
  }

  /** Coldest first, and nothing that somebody holds. */
  async #evict(keptBytes: number): Promise<void> {
    const idle = (await this.list()).filter(({ holders, isComplete }) => holders.size === 0 && isComplete)
    let total = idle.reduce((sum, { bytes }) => sum + bytes, 0)
    if (total <= keptBytes) return
    for (const held of idle) {
      if (total <= keptBytes * 0.75) return
      if (held.holders.size > 0) continue
      await this.#drop(held)
      total -= held.bytes
    }
  }

  async #drop(held: HeldMemory): Promise<void> {
    if (!this.#held.delete(held.build)) return
    await this.#remove(held)
  }

  async #remove(held: HeldMemory): Promise<void> {
    await held.filler.close()
    await held.file.remove()
  }
}

function memoryFile(fd: number, path?: string): MemoryFile {
  return {
    fd,
    path: path ?? `/proc/${process.pid}/fd/${fd}`,
    async remove() {
      closeSync(fd)
      if (path !== undefined) await rm(path, { force: true })
    },
  }
}

/** How a build's memory is called where processes have it mapped, whatever became of the block server that made it. */
export function buildMemoryName(build: BuildId): string {
  return `tutti-build-${build}`
}

export function freshMemoryName(name: string): string {
  return `tutti-new-${name}`
}

function dataBytes(reader: ImageReader, { size, chunkBytes }: Image): number {
  let chunks = 0
  for (let number = 0; number < Math.ceil(size / chunkBytes); number += 1) if (!reader.isZero(number)) chunks += 1
  return chunks * chunkBytes
}
