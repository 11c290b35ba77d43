import { closeSync, existsSync, fdatasync, fdatasyncSync, ftruncateSync, openSync, writevSync } from 'node:fs'
import { promisify } from 'node:util'
import { loadLibc } from '../memory/libc.ts'
import { errorWithCode, type NbdExport } from '../nbd/export.ts'
import { Journal, type JournalRecord } from './journal.ts'
import {
  applyRecords,
  type Base,
  blockBytes,
  blockCount,
  dataPath,
  fetchMissing,
  journalPath,
  markOf,
  maximumEpoch,
  type OverlayView,
  placeInView,
  readView,
  runAt,
  zeros,
} from './overlay-view.ts'

const datasync = promisify(fdatasync)

/** A journal is written anew when it says more than this; only a guest that keeps on trimming gets there. */
const maximumJournal = 32 * 1024 * 1024
/** What a guest gives back is given back to the file system in pieces worth the call. */
const punchedBlocks = 16
/** The system takes so many pieces at once; https://man7.org/linux/man-pages/man2/writev.2.html */
const maximumPieces = 1000

export interface OverlayOptions {
  /** Exists, and is nobody else's. What lies there from before is taken up again. */
  directory: string
  size: number
  base: Base | undefined
  /** Differs after every start of the machine. */
  bootId: bigint
}

/**
 * A disk that can be written over a base that cannot: what is written goes to the newest epoch's sparse file, block by block,
 * and is looked up in one table. `cut` ends an epoch, whose files never change again; so a snapshot is taken in an instant
 * and read at leisure. Everything is synchronous but waiting for the base and for the disk, hence atomic.
 */
export class Overlay implements NbdExport {
  readonly readOnly = false
  readonly #options: OverlayOptions
  readonly #where: Uint16Array
  readonly #files: number[] = []
  #journal: Journal
  #isEmpty: boolean
  readonly #unsynced = new Map<number, { fd: number; journal: Journal }>()
  #flushing: Promise<void> | undefined
  #nextFlush: Promise<void> | undefined

  constructor(options: OverlayOptions) {
    const { directory, size, bootId } = options
    this.#options = options
    this.#where = new Uint16Array(blockCount(size))
    let epoch = 0
    for (; existsSync(journalPath(directory, epoch + 1)); epoch += 1) {
      this.#files.push(openSync(dataPath(directory, epoch), 'r'))
      applyRecords(this.#where, epoch, Journal.read(journalPath(directory, epoch), bootId))
    }
    const { journal, records } = this.#begin(epoch)
    applyRecords(this.#where, epoch, records)
    this.#journal = journal
    this.#isEmpty = records.length === 0
  }

  get size(): number {
    return this.#options.size
  }

  get epoch(): number {
    return this.#files.length - 1
  }

  prepare(offset: number, length: number, why: 'read' | 'write'): Promise<void> | undefined {
    if (this.#options.base === undefined) return undefined
    const end = offset + length
    if (why === 'read') return fetchMissing(this.#view, offset, end)
    const edges = [offset, end].filter((edge) => edge % blockBytes !== 0 && edge < this.size)
    const waits = edges.map((edge) => {
      const block = edge - (edge % blockBytes)
      return fetchMissing(this.#view, block, Math.min(block + blockBytes, this.size))
    })
    return waits.some((wait) => wait !== undefined) ? Promise.all(waits).then(() => {}) : undefined
  }

  placeOf(offset: number, length: number): { fd: number; at: number } | undefined {
    return placeInView(this.#view, offset, length)
  }

  read(offset: number, into: Buffer): void {
    readView(this.#view, offset, into)
  }

  /** Blocks that are written in part get the rest of what they were, unless they are this epoch's own already. */
  write(offset: number, pieces: readonly Buffer[]): void {
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
    if (length === 0) return
    const end = offset + length
    const list = pieces.length > maximumPieces ? [Buffer.concat(pieces)] : [...pieces]
    const before = this.#rest(offset - (offset % blockBytes), offset)
    const after = this.#rest(end, Math.min(Math.ceil(end / blockBytes) * blockBytes, this.size))
    if (before) list.unshift(before)
    if (after) list.push(after)
    const [first, last] = [Math.floor(offset / blockBytes), Math.ceil(end / blockBytes)]
    try {
      writeFully(this.#file, list, offset - (before?.length ?? 0))
      this.#mark(first, last, 'data')
    } catch (error) {
      this.#giveBack(first, last)
      throw error
    }
  }

  zero(offset: number, length: number): void {
    const end = Math.min(offset + length, this.size)
    const first = Math.ceil(offset / blockBytes)
    const last = end === this.size ? blockCount(this.size) : Math.floor(end / blockBytes)
    if (first > last || (first === last && offset !== first * blockBytes && end !== last * blockBytes)) {
      if (end > offset) this.write(offset, [Buffer.alloc(end - offset)])
      return
    }
    if (offset < first * blockBytes) this.write(offset, [Buffer.alloc(first * blockBytes - offset)])
    if (end > last * blockBytes) this.write(last * blockBytes, [Buffer.alloc(end - last * blockBytes)])
    if (last > first) this.#mark(first, last, 'zero')
  }

  /** Those who ask while one is under way share the next. */
  flush(): Promise<void> {
    if (this.#flushing === undefined) {
      this.#flushing = this.#flush().finally(() => {
        this.#flushing = undefined
      })
      return this.#flushing
    }
    this.#nextFlush ??= this.#flushing
      .catch(() => {})
      .then(() => {
        this.#nextFlush = undefined
        return this.flush()
      })
    return this.#nextFlush
  }

  /** Ends the epoch and gives its number. Nothing written since the last one: that one's number, so asking twice is once. */
  cut(): number {
    const ended = this.epoch
    if (this.#isEmpty && ended > 0) return ended - 1
    if (ended >= maximumEpoch) throw errorWithCode('exhausted', 'the disk was cut too often')
    const over = { fd: this.#file, journal: this.#journal }
    const { journal, records } = this.#begin(ended + 1)
    this.#unsynced.set(ended, over)
    applyRecords(this.#where, ended + 1, records)
    this.#journal = journal
    this.#isEmpty = true
    this.flush().catch(() => {}) // the next one who flushes hears of it
    return ended
  }

  async close(): Promise<void> {
    await this.#nextFlush?.catch(() => {})
    await this.#flushing?.catch(() => {})
    for (const fd of this.#files.splice(0)) closeSync(fd)
    for (const { journal } of this.#unsynced.values()) journal.close()
    this.#journal.close()
  }

  get #view(): OverlayView {
    return { size: this.size, where: this.#where, files: this.#files, base: this.#options.base }
  }

  get #file(): number {
    return this.#files.at(-1) as number
  }

  #begin(epoch: number): { journal: Journal; records: JournalRecord[] } {
    const { directory, size, bootId } = this.#options
    const fd = openSync(dataPath(directory, epoch), 'a+', 0o600)
    closeSync(fd)
    const file = openSync(dataPath(directory, epoch), 'r+')
    ftruncateSync(file, blockCount(size) * blockBytes)
    try {
      const opened = Journal.open(journalPath(directory, epoch), bootId)
      this.#files.push(file)
      return opened
    } catch (error) {
      closeSync(file)
      throw error
    }
  }

  /** What the bytes of a block are that a write leaves alone; undefined when the file has them already, or there are none. */
  #rest(from: number, to: number): Buffer | undefined {
    if (to <= from || this.#where[Math.floor(from / blockBytes)] === markOf(this.epoch)) return undefined
    const bytes = Buffer.alloc(to - from)
    this.read(from, bytes)
    return bytes
  }

  /** Notes only what changes; a block that is written again costs nothing. */
  #mark(first: number, last: number, state: 'data' | 'zero'): void {
    const mark = state === 'zero' ? zeros : markOf(this.epoch)
    let from = first
    while (from < last && this.#where[from] === mark) from += 1
    let to = last
    while (to > from && this.#where[to - 1] === mark) to -= 1
    if (from === to) return
    this.#journal.append({ first: from, count: to - from, state })
    this.#isEmpty = false
    this.#where.fill(mark, from, to)
    if (state === 'zero' && to - from >= punchedBlocks)
      loadLibc()?.punch(this.#file, from * blockBytes, (to - from) * blockBytes)
    if (this.#journal.bytes > maximumJournal) {
      fdatasyncSync(this.#file)
      this.#journal.rewrite(this.#records())
    }
  }

  /** Space of blocks that were written in vain: on a full disk it is what the next step needs. */
  #giveBack(first: number, last: number): void {
    for (let block = first; block < last; ) {
      const run = runAt(this.#where, block * blockBytes, last * blockBytes)
      const bytes = run.end - block * blockBytes
      if (run.mark !== markOf(this.epoch)) loadLibc()?.punch(this.#file, block * blockBytes, bytes)
      block = run.end / blockBytes
    }
  }

  /** What the newest epoch is, in the fewest words; zeros of older epochs may be said again. */
  #records(): JournalRecord[] {
    const own = markOf(this.epoch)
    const records: JournalRecord[] = []
    for (let at = 0; at < this.#where.length; ) {
      const mark = this.#where[at]
      let end = at + 1
      while (end < this.#where.length && this.#where[end] === mark) end += 1
      if (mark === own || mark === zeros)
        records.push({ first: at, count: end - at, state: mark === own ? 'data' : 'zero' })
      at = end
    }
    return records
  }

  async #flush(): Promise<void> {
    for (const [epoch, { fd, journal }] of this.#unsynced) {
      await seal(fd, journal)
      journal.close()
      this.#unsynced.delete(epoch)
    }
    const journal = this.#journal
    await seal(this.#file, journal)
    if (journal !== this.#journal) await this.#flush() // cut meanwhile
  }
}

async function seal(fd: number, journal: Journal): Promise<void> {
  const { point } = journal
  await datasync(fd)
  await journal.seal(point)
}

function writeFully(fd: number, pieces: Buffer[], position: number): void {
  let list = pieces
  let at = position
  for (;;) {
    const total = list.reduce((sum, piece) => sum + piece.length, 0)
    const written = writevSync(fd, list, at)
    if (written === total) return
    if (written === 0) throw errorWithCode('ENOSPC', 'the disk is full')
    at += written
    list = without(list, written)
  }
}

function without(pieces: readonly Buffer[], count: number): Buffer[] {
  let skip = count
  return pieces.flatMap((piece) => {
    const cut = Math.min(skip, piece.length)
    skip -= cut
    return cut === piece.length ? [] : [piece.subarray(cut)]
  })
}
