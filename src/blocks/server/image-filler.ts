import { write } from 'node:fs'
import { promisify } from 'node:util'
import { Fault } from '../../model/fault.ts'
import type { ImageReader } from '../content.ts'
import { hasBit, type LocalImage, setBit } from './local-image.ts'

const writeTo = promisify(write)

/** So many chunks are on their way at once. */
const parallel = 16
/** Chunks of a list that are asked for at once. */
const together = 256
/** Bytes that are fetched ahead of somebody who reads one after the other. */
const aheadBytes = 1024 * 1024
/** Who asks for a little gets what lies around it as well. */
const pieceBytes = 128 * 1024

/** Brings chunks of an image into its local file, each once, however many ask for it. */
export class ImageFiller {
  readonly #image: LocalImage
  readonly #reader: ImageReader
  readonly #underWay = new Map<number, Promise<void>>()
  #nextInOrder = -1
  #isClosed = false
  /** Bytes that came from elsewhere so far. */
  fetchedBytes = 0
  /** How often somebody had to wait so far. */
  asked = 0
  /** How many wait now. */
  waiting = 0
  /** Why the last chunk that could not be brought was not. */
  fault: Fault | undefined

  constructor(image: LocalImage, reader: ImageReader) {
    this.#image = image
    this.#reader = reader
  }

  get chunks(): number {
    return Math.ceil(this.#image.size / this.#image.chunkBytes)
  }

  async fetch(first: number, last: number): Promise<void> {
    this.asked += 1
    const piece = Math.max(1, Math.floor(pieceBytes / this.#image.chunkBytes))
    const from = first - (first % piece)
    const to = last - (last % piece) + piece - 1
    const isInOrder = from === this.#nextInOrder
    this.#nextInOrder = to + 1
    const wanted = this.fill(from, to)
    if (isInOrder) this.fill(to + 1, to + Math.ceil(aheadBytes / this.#image.chunkBytes)).catch(() => {})
    this.waiting += 1
    try {
      await wanted
    } finally {
      this.waiting -= 1
    }
  }

  async fill(first: number, last: number, options?: { signal?: AbortSignal }): Promise<void> {
    const count = Math.min(last + 1, this.chunks) - first
    await this.#fillAll(count, (index) => first + index, options)
  }

  /**
   * Chunks from anywhere, in this order, in as few requests as their places allow: while some are put in place the next are on
   * their way. Numbers beyond the end of the image are left out.
   */
  async bring(chunks: readonly number[], options: { signal: AbortSignal }): Promise<void> {
    const inside = chunks.filter((chunk) => chunk < this.chunks)
    let placed = Promise.resolve()
    for (let at = 0; at < inside.length; at += together) {
      const part = inside.slice(at, at + together)
      await this.#reader.prefetch(part, options)
      placed = placed.then(() => this.#fillAll(part.length, (index) => part[index] as number, options))
      placed.catch(() => {})
    }
    await placed
  }

  async #fillAll(count: number, chunkAt: (index: number) => number, options?: { signal?: AbortSignal }): Promise<void> {
    let next = 0
    const take = async () => {
      while (next < count) {
        options?.signal?.throwIfAborted()
        if (this.#isClosed) throw new Fault('unavailable', 'the image was closed while it was read')
        await this.#one(chunkAt(next++))
      }
    }
    await Promise.all(Array.from({ length: Math.min(parallel, count) }, take))
  }

  /** Nothing is written any more when it resolves. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.allSettled([...this.#underWay.values()])
  }

  #one(number: number): Promise<void> | undefined {
    if (hasBit(this.#image.bits, number)) return undefined
    const underWay = this.#underWay.get(number)
    if (underWay !== undefined) return underWay
    const work = this.#bring(number)
      .catch((error: unknown) => {
        this.fault = Fault.from(error)
        throw error
      })
      .finally(() => this.#underWay.delete(number))
    this.#underWay.set(number, work)
    return work
  }

  async #bring(number: number): Promise<void> {
    if (!this.#reader.isZero(number)) {
      const bytes = await this.#reader.read(number)
      let done = 0
      while (done < bytes.length) {
        const at = number * this.#image.chunkBytes + done
        const { bytesWritten } = await writeTo(this.#image.fd, bytes, done, bytes.length - done, at)
        done += bytesWritten
      }
      this.fetchedBytes += bytes.length
    }
    setBit(this.#image.bits, number)
  }
}
