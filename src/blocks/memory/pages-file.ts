import { chmodSync, closeSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { linkFile } from '../../kit/link-file.ts'
import { fileFault } from '../files.ts'
import { pageBytes, type Run } from './mapping.ts'

/**
 * Pages of a memory in a file, one after the other, and beside it, named `.runs`, which they are: pairs of first page and
 * count. The second file comes last, so that what it speaks of is whole.
 */
export interface PagesFile {
  path: string
  runs: Run[]
}

export function writePages(path: string, runs: readonly Run[], fill: (fd: number) => void): void {
  try {
    const fd = openSync(path, 'w', 0o600)
    try {
      fill(fd)
    } finally {
      closeSync(fd)
    }
    writeRuns(path, runs)
  } catch (error) {
    removePages(path)
    throw (error as { code?: unknown }).code === 'ENOSPC' ? fileFault('cannot copy the memory', error) : error
  }
}

/** Declares what the file at `path` holds, and so that it is whole. */
export function writeRuns(path: string, runs: readonly Run[]): void {
  const pairs = new Uint32Array(runs.length * 2)
  runs.forEach(({ first, count }, index) => {
    pairs[index * 2] = first
    pairs[index * 2 + 1] = count
  })
  writeFileSync(`${runsPath(path)}.new`, pairs, { mode: 0o600 })
  renameSync(`${runsPath(path)}.new`, runsPath(path))
}

/** Undefined when it is not there or not whole. */
export function readPages(path: string): PagesFile | undefined {
  try {
    const bytes = readFileSync(runsPath(path))
    const runs: Run[] = []
    for (let at = 0; at + 8 <= bytes.length; at += 8)
      runs.push({ first: bytes.readUInt32LE(at), count: bytes.readUInt32LE(at + 4) })
    return { path, runs }
  } catch {
    return undefined
  }
}

export function movePages(from: string, to: string): void {
  renameSync(from, to)
  renameSync(runsPath(from), runsPath(to))
}

/**
 * Gives the pages a second place; whoever reads them there has them for as long as they like. A VMM may be a user of its
 * own; all directories on the way here but that one's are for the agent's user only.
 */
export function linkPages(from: string, to: string): void {
  removePages(to)
  for (const name of [(path: string) => path, runsPath]) {
    linkFile(name(from), name(to))
    chmodSync(name(to), 0o644)
  }
}

export function removePages(path: string): void {
  for (const runs of [runsPath(path), `${runsPath(path)}.new`]) rmSync(runs, { force: true })
  rmSync(path, { force: true })
}

export function bytesOf({ runs }: PagesFile): number {
  return runs.reduce((sum, { count }) => sum + count * pageBytes, 0)
}

function runsPath(path: string): string {
  return `${path}.runs`
}
