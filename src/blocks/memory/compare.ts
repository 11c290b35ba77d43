import { closeSync, readSync } from 'node:fs'
import { addressOf, type Mapping, pageBytes, type Run } from './mapping.ts'

const stepBytes = 1024 * 1024

/**
 * Pages of a process that are not those of the file that it has mapped, for where the kernel does not tell which pages are
 * the process's own: all of both is read. `memory` and `file` are descriptors, and closed.
 */
export function findDifferent(mappings: readonly Mapping[], size: number, memory: number, file: number): Run[] {
  const [theirs, ours] = [Buffer.allocUnsafeSlow(stepBytes), Buffer.allocUnsafeSlow(stepBytes)]
  const runs: Run[] = []
  try {
    for (let offset = 0; offset < size; ) {
      const { address, length } = addressOf(mappings, offset)
      const count = Math.min(stepBytes, length, size - offset)
      readAll(memory, theirs, count, address)
      readAll(file, ours, count, offset)
      if (theirs.compare(ours, 0, count, 0, count) !== 0) note(runs, offset / pageBytes, theirs, ours, count)
      offset += count
    }
  } finally {
    closeSync(memory)
    closeSync(file)
  }
  return runs
}

/** Pages of these runs of a file that have something in them. */
export function findNotZero(file: number, runs: readonly Run[]): Run[] {
  const [bytes, zeros] = [Buffer.allocUnsafeSlow(stepBytes), Buffer.alloc(stepBytes)]
  const found: Run[] = []
  for (const { first, count } of runs) {
    const end = (first + count) * pageBytes
    for (let offset = first * pageBytes; offset < end; offset += stepBytes) {
      const length = Math.min(stepBytes, end - offset)
      readAll(file, bytes, length, offset)
      if (bytes.compare(zeros, 0, length, 0, length) !== 0) note(found, offset / pageBytes, bytes, zeros, length)
    }
  }
  return found
}

function note(runs: Run[], firstPage: number, theirs: Buffer, ours: Buffer, count: number): void {
  for (let at = 0; at < count; at += pageBytes) {
    const end = Math.min(at + pageBytes, count)
    if (theirs.compare(ours, at, end, at, end) === 0) continue
    const page = firstPage + at / pageBytes
    const last = runs.at(-1)
    if (last && last.first + last.count === page) last.count += 1
    else runs.push({ first: page, count: 1 })
  }
}

/** What a file does not have is zeros. */
function readAll(fd: number, into: Buffer, length: number, position: number): void {
  for (let done = 0; done < length; ) {
    const read = readSync(fd, into, done, length - done, position + done)
    if (read === 0) return void into.fill(0, done, length)
    done += read
  }
}
