import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'

export const pageBytes = 4096

/** A part of a process's address space that shows a part of a memory image. */
export interface Mapping {
  start: number
  end: number
  /** In the image. */
  offset: number
}

/** How a process has mapped a memory image. */
export interface MemoryMappings {
  parts: Mapping[]
  /** Of the image's file, as `identify` tells it. */
  identity: string
  /** Pages of another file lie over the image; see native/memory-layers.c. */
  isLayered: boolean
}

/** Pages that follow one another. */
export interface Run {
  first: number
  count: number
}

/**
 * Where the process has mapped the memory image of `size` bytes: by the file that `path` leads to, or, when the block server
 * that made it is no more, by the names that it gives it; without any, any name that such servers give. Where all of the
 * image lies in one piece, as its parts tell, what is mapped between them lies over it and belongs to the memory.
 */
export function findMappings(
  pid: number,
  path: string,
  { names, size }: { names: readonly string[] | undefined; size: number },
): MemoryMappings {
  const wanted = identify(path)
  const all = readMappings(pid)
  const own = all.filter(({ identity, file }) => identity === wanted || isMemoryOf(file, names))
  const [first] = own
  if (first === undefined)
    throw new Fault('not_found', `process ${pid} has not mapped ${path}; was it started on this memory?`)
  const { identity } = first
  const start = first.start - first.offset
  const isOnePiece = own.every((one) => one.start - one.offset === start)
  const end = start + Math.ceil(size / pageBytes) * pageBytes
  const over = all.some((one) => one.identity !== identity && one.isFile && one.start >= start && one.end <= end)
  if (!isOnePiece || !over) return { parts: own, identity, isLayered: false }
  return { parts: [{ start, end, offset: 0 }], identity, isLayered: true }
}

interface FileMapping extends Mapping {
  identity: string
  file: string
  isFile: boolean
}

function readMappings(pid: number): FileMapping[] {
  return mapsOf(pid)
    .split('\n')
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)\s*(.*)$/.exec(line)
      if (match === null) return []
      const [, start = '', end = '', offset = '', device, inode, file = ''] = match
      const place = { start: parseInt(start, 16), end: parseInt(end, 16), offset: parseInt(offset, 16) }
      return [{ ...place, identity: `${device}:${inode}`, file, isFile: inode !== '0' }]
    })
}

export type PageKind = 'private' | 'present'

/**
 * Runs of pages of the file, by what the process has in their place. `private`: pages of its own, which it got by writing;
 * they are not pages of the file, or lie in swap. `present`: pages that it has touched in any way.
 * https://docs.kernel.org/admin-guide/mm/pagemap.html
 */
export function findPages(pid: number, mappings: readonly Mapping[], kind: PageKind): Run[] {
  const runs: Run[] = []
  const fd = openSync(`/proc/${pid}/pagemap`, 'r')
  try {
    for (const { start, end, offset } of mappings) {
      const entries = Buffer.alloc(((end - start) / pageBytes) * 8)
      const length = readSync(fd, entries, 0, entries.length, (start / pageBytes) * 8)
      collect(new Uint32Array(entries.buffer, entries.byteOffset, length / 4), offset / pageBytes, kind, runs)
    }
  } finally {
    closeSync(fd)
  }
  return runs
}

/** Upper halves of entries: 31 present, 30 swapped, 29 a page of the file (or shared). */
function collect(halves: Uint32Array, firstPage: number, kind: PageKind, runs: Run[]): void {
  let from = -1
  const count = halves.length / 2
  for (let page = 0; page <= count; page += 1) {
    const top = page < count ? (halves[page * 2 + 1] as number) >>> 29 : 0
    const is = kind === 'private' ? (top & 0b101) === 0b100 || (top & 0b010) !== 0 : top >= 0b010
    if (is && from < 0) from = page
    else if (!is && from >= 0) {
      runs.push({ first: firstPage + from, count: page - from })
      from = -1
    }
  }
}

/** The address at which the process has this byte of the file, and how many follow it there. */
export function addressOf(mappings: readonly Mapping[], offset: number): { address: number; length: number } {
  for (const mapping of mappings) {
    const into = offset - mapping.offset
    const length = mapping.end - mapping.start - into
    if (into >= 0 && length > 0) return { address: mapping.start + into, length }
  }
  throw new Fault('invalid', 'the process has mapped only a part of the memory')
}

function mapsOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/maps`, 'utf8')
  } catch (cause) {
    throw new Fault('not_found', `process ${pid} cannot be looked into; is it still there?`, { cause })
  }
}

function isMemoryOf(file: string, names: readonly string[] | undefined): boolean {
  if (names === undefined) return file.startsWith('/memfd:tutti-')
  return names.some((name) => file === `/memfd:${name} (deleted)` || file === name)
}

/** Device and inode of a file, as they are written in /proc/PID/maps. */
export function identify(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true })
    const hex = (value: bigint) => value.toString(16).padStart(2, '0')
    const major = (dev >> 8n) & 0xfffn
    const minor = (dev & 0xffn) | ((dev >> 12n) & 0xfff00n)
    return `${hex(major)}:${hex(minor)}:${ino}`
  } catch {
    return undefined
  }
}
