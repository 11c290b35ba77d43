import { closeSync, fstatSync, openSync, readdirSync, readSync, statfsSync, writeSync } from 'node:fs'
import { Fault } from '../../model/fault.ts'
import { findDifferent, findNotZero } from './compare.ts'
import { loadLibc } from './libc.ts'
import {
  addressOf,
  findMappings,
  findPages,
  identify,
  type Mapping,
  type MemoryMappings,
  type PageKind,
  pageBytes,
  type Run,
} from './mapping.ts'
import { writePages } from './pages-file.ts'

export interface CaptureRequest {
  pid: number
  path: string
  /** By which the file is known in the process when `path` is no more. */
  names: readonly string[] | undefined
  /** Bytes of the memory. */
  size: number
  /** Whether the process has it for itself, so that only its own pages count; otherwise the file is the memory. */
  isPrivate: boolean
  /** File for the pages; what they are lies beside it. */
  into: string
  /** Finds its own pages by comparing them with the file's even where the kernel would tell. */
  compares?: boolean
}

/** Pages are copied so many bytes at a time: little enough to stay in the processor's cache between its two halves. */
const stepBytes = 1024 * 1024

export interface Captured {
  /** That were copied. */
  bytes: number
  /** The process had pages of another file over the image, and what was copied differs from these. */
  isLayered: boolean
}

/** Copies what is the stopped process's own. */
export function capture(request: CaptureRequest): Captured {
  const libc = loadLibc()
  const mappings = findMappings(request.pid, request.path, request)
  const { parts, identity } = mappings
  const own = request.isPrivate ? ownPages(request, mappings) : undefined
  const runs = own?.runs
  const isLayered = own?.isLayered ?? false
  const source = runs ? openMemoryOf(request.pid) : openFileOf(request.pid, request.path, identity)
  try {
    const wanted = runs ?? dataRuns(source, request, parts)
    const inside = cutTo(wanted, request.size)
    const step = Buffer.allocUnsafeSlow(stepBytes)
    writePages(request.into, inside, (fd) => {
      let at = 0
      for (const { offset, length } of steps(inside)) {
        const place = runs ? addressOf(parts, offset) : { address: offset, length }
        const count = Math.min(length, place.length)
        if (!runs || libc?.readProcess(request.pid, place.address, step, count) !== count)
          readExactly(source, step, count, place.address)
        at += writeExactly(fd, step, count, at)
        if (count < length) throw new Fault('internal', 'a page lies across two mappings')
      }
    })
    return { bytes: inside.reduce((sum, { count }) => sum + count * pageBytes, 0), isLayered }
  } finally {
    closeSync(source)
  }
}

/**
 * Told by the kernel, unless it was built without that or keeps it to itself; then by comparing with the image, so that
 * what lies over it is found as well.
 */
function ownPages(
  { pid, path, size, compares = false }: CaptureRequest,
  { parts, identity, isLayered }: MemoryMappings,
): { runs: Run[]; isLayered: boolean } {
  const told = compares ? undefined : pagesIfTold(pid, parts, 'private')
  if (told) return { runs: told, isLayered }
  return { runs: findDifferent(parts, size, openMemoryOf(pid), openFileOf(pid, path, identity)), isLayered: false }
}

/** Undefined where the kernel keeps it to itself. */
function pagesIfTold(pid: number, parts: readonly Mapping[], kind: PageKind): Run[] | undefined {
  try {
    return findPages(pid, parts, kind)
  } catch (error) {
    if (!['EACCES', 'EPERM', 'ENOENT'].includes((error as { code?: string }).code ?? '')) throw error
    return undefined
  }
}

/** Chunks that the process has touched, in their order in memory. */
export function touchedChunks(
  pid: number,
  path: string,
  names: readonly string[] | undefined,
  size: number,
  chunkBytes: number,
): number[] {
  const runs = cutTo(findPages(pid, findMappings(pid, path, { names, size }).parts, 'present'), size)
  const chunks = new Set<number>()
  for (const { first, count } of runs) {
    const last = Math.floor(((first + count) * pageBytes - 1) / chunkBytes)
    for (let chunk = Math.floor((first * pageBytes) / chunkBytes); chunk <= last; chunk += 1) chunks.add(chunk)
  }
  return [...chunks]
}

export function openMemoryOf(pid: number, mode: 'r' | 'r+' = 'r'): number {
  try {
    return openSync(`/proc/${pid}/mem`, mode)
  } catch (cause) {
    throw new Fault('denied', `the memory of process ${pid} may not be opened; it must be of the same user`, { cause })
  }
}

/** The file itself, also when its maker is gone and the path leads elsewhere: the process has it open. */
function openFileOf(pid: number, path: string, identity: string): number {
  const candidates = [path, ...readdirSync(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`)]
  const found = candidates.find((candidate) => identify(candidate) === identity)
  if (found === undefined) throw new Fault('not_found', `the memory of process ${pid} can no longer be opened`)
  return openSync(found, 'r')
}

/** What there is of a file that is a machine's memory. */
function dataRuns(fd: number, { pid, size }: CaptureRequest, parts: readonly Mapping[]): Run[] {
  const libc = loadLibc()
  const all = [{ first: 0, count: Math.ceil(size / pageBytes) }]
  if (libc === undefined) return all
  // Files of huge pages do not say where they have holes, and of a page that was touched most may be zeros.
  if (statfsSync(`/proc/self/fd/${fd}`).type === hugetlbfs)
    return findNotZero(fd, cutTo(pagesIfTold(pid, parts, 'present') ?? all, size))
  const runs: Run[] = []
  for (let at = 0; at < Math.min(size, fstatSync(fd).size); ) {
    const data = libc.nextData(fd, at)
    if (data === undefined) break
    const first = Math.floor(data.start / pageBytes)
    runs.push({ first, count: Math.ceil(data.end / pageBytes) - first })
    at = data.end
  }
  return runs
}

/** https://man7.org/linux/man-pages/man2/statfs.2.html */
const hugetlbfs = 0x9584_58f6

function cutTo(runs: readonly Run[], size: number): Run[] {
  const pages = Math.ceil(size / pageBytes)
  return runs.flatMap(({ first, count }) => (first >= pages ? [] : [{ first, count: Math.min(count, pages - first) }]))
}

function* steps(runs: readonly Run[]): Generator<{ offset: number; length: number }> {
  for (const { first, count } of runs) {
    for (let done = 0; done < count * pageBytes; done += stepBytes)
      yield { offset: first * pageBytes + done, length: Math.min(stepBytes, count * pageBytes - done) }
  }
}

function readExactly(fd: number, into: Buffer, length: number, position: number): void {
  for (let done = 0; done < length; ) {
    const read = readSync(fd, into, done, length - done, position + done)
    if (read === 0) {
      into.fill(0, done, length)
      return
    }
    done += read
  }
}

function writeExactly(fd: number, from: Buffer, length: number, position: number): number {
  for (let done = 0; done < length; ) {
    const written = writeSync(fd, from, done, length - done, position + done)
    if (written === 0) throw Object.assign(new Error('the disk is full'), { code: 'ENOSPC' })
    done += written
  }
  return length
}
