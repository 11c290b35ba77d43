import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { chmod, mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Log } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import type { Bases, OpenBase } from './bases.ts'
import type { DiskThreads } from './disk-threads.ts'
import { hasBit } from './local-image.ts'
import { blockCount, dataPath, journalPath, type OverlayView, replay } from './overlay-view.ts'
import type { AnswerOf, RequestOf } from './protocol.ts'

/** What a disk is, kept beside its overlay for the next block server. */
const DiskNote = z.strictObject({ build: BuildId.nullable(), size: z.int() })
type DiskNote = z.infer<typeof DiskNote>

export interface OpenDisk extends DiskNote {
  name: string
  directory: string
  socket: string
  base: OpenBase | undefined
  epoch: number
}

export interface DisksOptions {
  directory: string
  bases: Bases
  threads: DiskThreads
  bootId: bigint
  log: Log
}

/** The disks of this node's machines: which are open, what they are made of, and what lies on this machine for them. */
export class Disks {
  readonly #options: DisksOptions
  readonly #open = new Map<string, Promise<OpenDisk>>()

  constructor(options: DisksOptions) {
    this.#options = options
  }

  /** Serves again what an earlier block server served: guests are waiting for it. */
  async resume(): Promise<void> {
    const { directory, log } = this.#options
    await mkdir(directory, { recursive: true, mode: 0o700 })
    for (const name of await readdir(directory)) {
      const note = readNote(join(directory, name))
      if (note === undefined) rmSync(join(directory, name), { recursive: true, force: true })
      else
        await this.#openOnce(name, note).catch((error: unknown) => {
          // It stays as it is, for when what it needs is back; the others are served.
          log.error({ err: error }, `disk ${name} cannot be served`)
        })
    }
  }

  async open({ name, from, size }: RequestOf<'openDisk'>): Promise<AnswerOf<'openDisk'>> {
    const open = this.#open.get(name)
    const disk = open ? await open : await this.#openOnce(name, await this.#plan(from, size))
    return { socket: disk.socket, size: disk.size }
  }

  async cut(name: string): Promise<number> {
    const disk = await this.#find(name)
    const epoch = await this.#options.threads.call<number>(name, { kind: 'cut', name })
    disk.epoch = epoch + 1
    return epoch
  }

  /** Chunks of its base that were read since that was opened, here or by others. */
  async touched(name: string): Promise<number[]> {
    const { base } = await this.#find(name)
    if (base === undefined) return []
    const chunks = Array.from({ length: base.filler.chunks }, (_, number) => number)
    return chunks.filter((number) => hasBit(base.image.bits, number) && !base.reader.isZero(number))
  }

  async close(name: string): Promise<void> {
    const opening = this.#open.get(name)
    if (opening === undefined) return
    const disk = await opening
    this.#open.delete(name)
    rmSync(notePath(disk.directory), { force: true }) // from here on it is not a disk that anybody resumes
    await this.#options.threads.close(name)
    await disk.base?.release()
    rmSync(disk.directory, { recursive: true, force: true })
  }

  /** Lets go of all of them; the next block server takes them up. */
  async leave(): Promise<void> {
    for (const [name, opening] of this.#open) {
      const disk = await opening.catch(() => undefined)
      if (disk === undefined) continue
      await this.#options.threads.close(name)
      await disk.base?.release()
    }
    this.#open.clear()
  }

  /** The disk as it was when `epoch` ended, to read; `files` are to be opened by the reader. */
  async view(name: string, epoch: number): Promise<{ disk: OpenDisk; where: Uint16Array; paths: string[] }> {
    const disk = await this.#find(name)
    if (epoch >= disk.epoch)
      throw new Fault('conflict', `epoch ${epoch} of disk ${name} has not ended; cut the disk first`)
    const where = replay(disk.directory, epoch, disk.size, this.#options.bootId)
    const paths = Array.from({ length: epoch + 1 }, (_, number) => dataPath(disk.directory, number))
    return { disk, where, paths }
  }

  async list(): Promise<AnswerOf<'list'>['disks']> {
    const disks = (await Promise.allSettled(this.#open.values())).flatMap((one) =>
      one.status === 'fulfilled' ? [one.value] : [],
    )
    return disks.map(({ name, build, size, epoch, directory }) => ({
      name,
      build,
      size,
      epoch,
      overlayBytes: overlayBytes(directory, epoch),
    }))
  }

  async #plan(from: RequestOf<'openDisk'>['from'], size: number | undefined): Promise<DiskNote> {
    if ('size' in from) return { build: null, size: checkSize(Math.max(from.size, size ?? 0)) }
    const build = BuildId.parse(from.build)
    const base = await this.#options.bases.open(build)
    await base.release()
    return { build, size: checkSize(Math.max(base.image.size, size ?? 0)) }
  }

  #openOnce(name: string, note: DiskNote): Promise<OpenDisk> {
    const open = this.#open.get(name)
    if (open) return open
    const opening = this.#start(name, note)
    this.#open.set(name, opening)
    opening.catch(() => this.#open.delete(name))
    return opening
  }

  async #start(name: string, note: DiskNote): Promise<OpenDisk> {
    const { bases, threads, bootId } = this.#options
    const directory = join(this.#options.directory, name)
    // Handed to a VMM that is another user, which finds the socket in it by name and may open nothing else.
    await mkdir(directory, { recursive: true })
    await chmod(directory, 0o711)
    const base = note.build === null ? undefined : await bases.open(note.build)
    try {
      writeFileSync(`${notePath(directory)}.new`, JSON.stringify(note), { mode: 0o600 })
      renameSync(`${notePath(directory)}.new`, notePath(directory))
      const socket = join(directory, 's')
      const overlay = { directory }
      const shared = base && { ...base.image, key: base.key }
      const epoch = await threads.open(name, { socket, overlay, size: note.size, base: shared, bootId })
      return { ...note, name, directory, socket, base, epoch }
    } catch (error) {
      await base?.release()
      throw error
    }
  }

  #find(name: string): Promise<OpenDisk> {
    const open = this.#open.get(name)
    if (open === undefined) throw new Fault('not_found', `no disk ${name} is open`)
    return open
  }
}

export function asView(disk: OpenDisk, where: Uint16Array, files: readonly number[]): OverlayView {
  const { base, size } = disk
  const fetch = async (first: number, last: number) => base?.filler.fetch(first, last)
  return { size, where, files, base: base && { ...base.image, fetch } }
}

function checkSize(size: number): number {
  if (size <= 0 || size % 512 !== 0 || blockCount(size) > 2 ** 32)
    throw new Fault('invalid', `a disk of ${size} bytes cannot be made; sizes are multiples of 512`)
  return size
}

function overlayBytes(directory: string, epoch: number): number {
  let total = 0
  for (let number = 0; number <= epoch; number += 1) {
    for (const path of [dataPath(directory, number), journalPath(directory, number)]) {
      total += (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512
    }
  }
  return total
}

function readNote(directory: string): DiskNote | undefined {
  try {
    return DiskNote.parse(JSON.parse(readFileSync(notePath(directory), 'utf8')))
  } catch {
    return undefined
  }
}

function notePath(directory: string): string {
  return join(directory, 'disk.json')
}
