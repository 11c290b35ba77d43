import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'
import { openMemoryOf } from './capture.ts'
import { addressOf, findMappings, pageBytes } from './mapping.ts'
import { readPages } from './pages-file.ts'

export interface ApplyRequest {
  pid: number
  path: string
  names: readonly string[]
  /** File of pages, as `capture` makes them. */
  from: string
}

const stepBytes = 1024 * 1024

/** Puts pages in place of those that the process has mapped, which become its own; gives how many bytes. */
export function apply({ pid, path, names, from }: ApplyRequest): number {
  const pages = readPages(from)
  if (pages === undefined) throw new Fault('not_found', `there are no pages in ${from}`)
  const mappings = findMappings(pid, path, names)
  const source = openSync(from, 'r')
  const target = openMemoryOf(pid, 'r+')
  const step = Buffer.allocUnsafeSlow(stepBytes)
  let at = 0
  try {
    for (const { first, count } of pages.runs) {
      const end = (first + count) * pageBytes
      for (let offset = first * pageBytes; offset < end; ) {
        const { address, length } = addressOf(mappings, offset)
        const read = readSync(source, step, 0, Math.min(stepBytes, end - offset, length), at)
        if (read === 0) throw new Fault('internal', `${from} is shorter than it should be`)
        writeAll(target, step, read, address)
        offset += read
        at += read
      }
    }
  } finally {
    closeSync(target)
    closeSync(source)
  }
  return at
}

export function writeAll(fd: number, bytes: Buffer, length: number, position: number): void {
  for (let done = 0; done < length; ) done += writeSync(fd, bytes, done, length - done, position + done)
}
