import { readSync } from 'node:fs'
import { join } from 'node:path'
import { Journal, type JournalRecord } from './journal.ts'
import { type LocalImage, missingIn } from './local-image.ts'

/** Bytes of a block: what an overlay knows or does not know. */
export const blockBytes = 4096

/** In `where`: nobody wrote the block; what the base has is what it is. */
export const fromBase = 0
/** In `where`: zeros, whatever the base has. */
export const zeros = 0xffff
/** Numbers of epochs end where the marks in `where` do. */
export const maximumEpoch = 0xfff0

/** The mark of an epoch's blocks in `where`. */
export function markOf(epoch: number): number {
  return epoch + 1
}

/** What a base is to its readers: what of it is here, and a way to get more. Absent for a disk that began empty. */
export interface Base extends LocalImage {
  /** Resolves when the chunks are there. */
  fetch(first: number, last: number): Promise<void>
}

/**
 * A disk as of some epoch, for reading: of each 4 KiB block, which epoch's file has it. One table for all epochs, so that a
 * disk with a hundred of them is read as fast as one with a single one.
 */
export interface OverlayView {
  readonly size: number
  readonly where: Uint16Array
  /** Of each epoch, the file with its data. */
  readonly files: readonly number[]
  readonly base: Base | undefined
}

export function readView({ size, where, files, base }: OverlayView, offset: number, into: Buffer): void {
  const end = Math.min(offset + into.length, size)
  for (let at = offset; at < end; ) {
    const run = runAt(where, at, end)
    const part = into.subarray(at - offset, run.end - offset)
    if (run.mark === zeros) part.fill(0)
    else if (run.mark !== fromBase) readFully(files[run.mark - 1] as number, part, at)
    else readBase(base, at, part)
    at = run.end
  }
  if (end < offset + into.length) into.fill(0, Math.max(0, end - offset))
}

/** The file that has all of the range, and where; undefined when it is made of more than that. */
export function placeInView(
  { where, files, base }: OverlayView,
  offset: number,
  length: number,
): { fd: number; at: number } | undefined {
  const { mark, end } = runAt(where, offset, offset + length)
  if (end < offset + length || mark === zeros) return undefined
  if (mark !== fromBase) return { fd: files[mark - 1] as number, at: offset }
  return base && end <= base.size ? { fd: base.fd, at: offset } : undefined
}

/** Of chunks that are here; zeros beyond the end. */
export function readBase(base: LocalImage | undefined, offset: number, into: Buffer): void {
  const inside = base === undefined ? 0 : Math.max(0, Math.min(into.length, base.size - offset))
  if (base !== undefined && inside > 0) readFully(base.fd, into.subarray(0, inside), offset)
  into.fill(0, inside)
}

/** Waits for what of the range must come from the base and is not here yet; undefined when there is nothing to wait for. */
export function fetchMissing({ where, base }: OverlayView, offset: number, end: number): Promise<void> | undefined {
  if (base === undefined || missingIn(base, offset, end - offset) === undefined) return undefined
  const waits: Promise<void>[] = []
  for (let at = offset; at < end; ) {
    const run = runAt(where, at, end)
    const missing = run.mark === fromBase ? missingIn(base, at, run.end - at) : undefined
    if (missing) waits.push(base.fetch(missing.first, missing.last))
    at = run.end
  }
  return waits.length === 0 ? undefined : Promise.all(waits).then(() => {})
}

/** Where the run of equal marks that `at` lies in ends, at most at `end`. */
export function runAt(where: Uint16Array, at: number, end: number): { mark: number; end: number } {
  const last = Math.ceil(end / blockBytes)
  let block = Math.floor(at / blockBytes)
  const mark = where[block] as number
  do block += 1
  while (block < last && where[block] === mark)
  return { mark, end: Math.min(block * blockBytes, end) }
}

export function blockCount(size: number): number {
  return Math.ceil(size / blockBytes)
}

/** What the first epochs of a disk made of its blocks, up to and with `epoch`. */
export function replay(directory: string, epoch: number, size: number, bootId: bigint): Uint16Array {
  const where = new Uint16Array(blockCount(size))
  for (let number = 0; number <= epoch; number += 1)
    applyRecords(where, number, Journal.read(journalPath(directory, number), bootId))
  return where
}

export function applyRecords(where: Uint16Array, epoch: number, records: readonly JournalRecord[]): void {
  for (const { first, count, state } of records)
    where.fill(state === 'data' ? markOf(epoch) : zeros, first, first + count)
}

export function dataPath(directory: string, epoch: number): string {
  return join(directory, `${epoch}.data`)
}

export function journalPath(directory: string, epoch: number): string {
  return join(directory, `${epoch}.log`)
}

function readFully(fd: number, into: Buffer, position: number): void {
  for (let done = 0; done < into.length; ) {
    const read = readSync(fd, into, done, into.length - done, position + done)
    if (read === 0) {
      into.fill(0, done)
      return
    }
    done += read
  }
}
