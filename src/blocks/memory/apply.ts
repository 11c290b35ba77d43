import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'
import { openMemoryOf } from './capture.ts'
import { loadLibc, maximumRanges, type ProcessRange } from './libc.ts'
import { addressOf, findMappings, type Mapping, pageBytes, type Run } from './mapping.ts'
import { readPages } from './pages-file.ts'

export interface ApplyRequest {
  pid: number
  path: string
  names: readonly string[]
  /** Bytes of the memory. */
  size: number
  /** File of pages, as `capture` makes them. */
  from: string
}

const stepBytes = 1024 * 1024

/** Puts pages in place of those that the process has mapped, which become its own; gives how many bytes. */
export function apply({ pid, path, names, size, from }: ApplyRequest): number {
  const pages = readPages(from)
  if (pages === undefined) throw new Fault('not_found', `there are no pages in ${from}`)
  const source = openSync(from, 'r')
  const target = openMemoryOf(pid, 'r+')
  const step = Buffer.allocUnsafeSlow(stepBytes)
  let at = 0
  try {
    for (const { ranges, bytes } of steps(pages.runs, findMappings(pid, path, { names, size }).parts)) {
      if (readSync(source, step, 0, bytes, at) !== bytes)
        throw new Fault('internal', `${from} is shorter than it should be`)
      if (loadLibc()?.writeProcess(pid, step, ranges) !== bytes) writeOneByOne(target, step, ranges)
      at += bytes
    }
  } finally {
    closeSync(target)
    closeSync(source)
  }
  return at
}

/** As many pages at a time as fit the buffer: most runs are short, and a call costs as much as copying some pages. */
function* steps(
  runs: readonly Run[],
  mappings: readonly Mapping[],
): Generator<{ ranges: ProcessRange[]; bytes: number }> {
  let ranges: ProcessRange[] = []
  let bytes = 0
  for (const { first, count } of runs) {
    const end = (first + count) * pageBytes
    for (let offset = first * pageBytes; offset < end; ) {
      const { address, length } = addressOf(mappings, offset)
      const taken = Math.min(stepBytes - bytes, end - offset, length)
      ranges.push({ address, length: taken })
      bytes += taken
      offset += taken
      if (bytes < stepBytes && ranges.length < maximumRanges) continue
      yield { ranges, bytes }
      ranges = []
      bytes = 0
    }
  }
  if (bytes > 0) yield { ranges, bytes }
}

function writeOneByOne(target: number, step: Buffer, ranges: readonly ProcessRange[]): void {
  let at = 0
  for (const { address, length } of ranges) {
    writeAll(target, step.subarray(at), length, address)
    at += length
  }
}

export function writeAll(fd: number, bytes: Buffer, length: number, position: number): void {
  for (let done = 0; done < length; ) done += writeSync(fd, bytes, done, length - done, position + done)
}
