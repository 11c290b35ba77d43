import { closeSync, readFileSync } from 'node:fs'
import { loadFfi } from '../../kit/ffi.ts'

/** What of Linux Node has no function for. Undefined where it cannot be called; callers then do without. */
export interface Libc {
  /** An unnamed file in memory, for as long as somebody has it open. */
  memfd(name: string): number
  /**
   * The same in pages of 2 MiB that the system has set aside, with as many as it takes promised to it: whoever maps it never
   * lacks one. `bytes` are a multiple of 2 MiB. Undefined where too few are free. It can be read, and written when mapped.
   */
  hugeMemfd(name: string, bytes: number): number | undefined
  /** From now on the file cannot be written, resized, or unsealed. False when somebody has it mapped for writing. */
  seal(fd: number): boolean
  /** Where the next data begins and ends, from `offset` on; undefined when there is none. */
  nextData(fd: number, offset: number): { start: number; end: number } | undefined
  /** Lets so many bytes wait in a socket for its reader, or as many as this process may. */
  growSendBuffer(fd: number, bytes: number): void
  /** Bytes of a file go to a socket without being copied; how many it took, or -1. */
  sendFile(socket: number, fd: number, offset: number, length: number): number
  /** Gives the range's bytes back to the file system; it reads as zeros. */
  punch(fd: number, offset: number, length: number): boolean
  /**
   * Copies memory of another process straight into `into`, which /proc/PID/mem does by way of a page of the kernel's. Gives
   * the bytes that it copied; -1 where that is not allowed.
   */
  readProcess(pid: number, address: number, into: Buffer, length: number): number
  /** The other way, to many places at once: the bytes of `from` go to one range after the other. At most `maximumRanges`. */
  writeProcess(pid: number, from: Buffer, ranges: readonly ProcessRange[]): number
}

export interface ProcessRange {
  address: number
  length: number
}

/** https://man7.org/linux/man-pages/man2/process_vm_readv.2.html */
export const maximumRanges = 1024

let loaded: { libc: Libc | undefined } | undefined

export function loadLibc(): Libc | undefined {
  loaded ??= { libc: load() }
  return loaded.libc
}

const closeOnExec = 1
const allowSealing = 2
/** https://man7.org/linux/man-pages/man2/memfd_create.2.html: MFD_HUGETLB | MFD_HUGE_2MB */
const hugePages = 0x4 | (21 << 26)
export const hugePageBytes = 2 * 2 ** 20
const readAndWrite = 1 | 2
const mapShared = 1
const mapFailed = 2n ** 64n - 1n
const addSeals = 1033
/** Seal, shrink, grow, write: https://man7.org/linux/man-pages/man2/F_GET_SEALS.2const.html */
const allSeals = 1 | 2 | 4 | 8
const sizeSeals = 2 | 4
const seekData = 3
const seekHole = 4
const keepSize = 1
const punchHole = 2
const solSocket = 1
const sendBuffer = 7
const sendBufferForce = 32

function load(): Libc | undefined {
  if (process.platform !== 'linux') return undefined
  const ffi = loadFfi()
  if (ffi === undefined) return undefined
  try {
    const { functions: c } = ffi.dlopen(null, {
      memfd_create: { arguments: ['string', 'uint32'], return: 'int32' },
      ftruncate64: { arguments: ['int32', 'int64'], return: 'int32' },
      mmap64: { arguments: ['uint64', 'uint64', 'int32', 'int32', 'int32', 'int64'], return: 'uint64' },
      munmap: { arguments: ['uint64', 'uint64'], return: 'int32' },
      fcntl: { arguments: ['int32', 'int32', 'int64'], return: 'int32' },
      lseek64: { arguments: ['int32', 'int64', 'int32'], return: 'int64' },
      process_vm_readv: { arguments: ['int32', 'buffer', 'uint64', 'buffer', 'uint64', 'uint64'], return: 'int64' },
      process_vm_writev: { arguments: ['int32', 'buffer', 'uint64', 'buffer', 'uint64', 'uint64'], return: 'int64' },
      setsockopt: { arguments: ['int32', 'int32', 'int32', 'buffer', 'uint32'], return: 'int32' },
      sendfile64: { arguments: ['int32', 'int32', 'buffer', 'uint64'], return: 'int64' },
      fallocate64: { arguments: ['int32', 'int32', 'int64', 'int64'], return: 'int32' },
    })
    const seek = (fd: number, offset: number, whence: number) => Number(c.lseek64(fd, BigInt(offset), whence))
    const local = new BigUint64Array(2)
    const position = new BigInt64Array(1)
    const positionBytes = Buffer.from(position.buffer)
    const remote = new BigUint64Array(maximumRanges * 2)
    const [localBytes, remoteBytes] = [Buffer.from(local.buffer), Buffer.from(remote.buffer)]
    return {
      readProcess(pid, address, into, length) {
        local[0] = ffi.getRawPointer(into)
        local[1] = BigInt(length)
        remote[0] = BigInt(address)
        remote[1] = BigInt(length)
        return Number(c.process_vm_readv(pid, localBytes, 1n, remoteBytes, 1n, 0n))
      },
      writeProcess(pid, from, ranges) {
        let total = 0
        ranges.forEach(({ address, length }, index) => {
          remote[index * 2] = BigInt(address)
          remote[index * 2 + 1] = BigInt(length)
          total += length
        })
        local[0] = ffi.getRawPointer(from)
        local[1] = BigInt(total)
        return Number(c.process_vm_writev(pid, localBytes, 1n, remoteBytes, BigInt(ranges.length), 0n))
      },
      memfd(name) {
        const fd = c.memfd_create(name, closeOnExec | allowSealing)
        if (fd < 0) throw new Error('the system makes no file in memory')
        return fd
      },
      hugeMemfd(name, bytes) {
        const fd = c.memfd_create(name, closeOnExec | allowSealing | hugePages)
        if (fd < 0) return undefined
        // The first that maps a file of these pages has all of them promised to the file, in one go or not at all.
        const sized = c.ftruncate64(fd, BigInt(bytes)) === 0
        const address = sized ? c.mmap64(0n, BigInt(bytes), readAndWrite, mapShared, fd, 0n) : mapFailed
        if (address === mapFailed) {
          closeSync(fd)
          return undefined
        }
        c.munmap(address, BigInt(bytes))
        // No group counts these pages: who is given the file is not to take more of them by making it larger.
        c.fcntl(fd, addSeals, BigInt(sizeSeals))
        return fd
      },
      seal: (fd) => c.fcntl(fd, addSeals, BigInt(allSeals)) === 0,
      nextData(fd, offset) {
        const start = seek(fd, offset, seekData)
        return start < 0 ? undefined : { start, end: seek(fd, start, seekHole) }
      },
      growSendBuffer(fd, bytes) {
        const value = Buffer.alloc(4)
        value.writeInt32LE(bytes)
        for (const option of [sendBufferForce, sendBuffer])
          if (c.setsockopt(fd, solSocket, option, value, 4) === 0) return
      },
      sendFile(socket, fd, offset, length) {
        position[0] = BigInt(offset)
        return Number(c.sendfile64(socket, fd, positionBytes, BigInt(length)))
      },
      punch: (fd, offset, length) => c.fallocate64(fd, keepSize | punchHole, BigInt(offset), BigInt(length)) === 0,
    }
  } catch {
    return undefined
  }
}

/** Bytes that programs may still take before the machine is in need; Infinity where nobody says. */
export function availableMemory(): number {
  try {
    const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'latin1'))
    return match ? Number(match[1]) * 1024 : Number.POSITIVE_INFINITY
  } catch {
    return Number.POSITIVE_INFINITY
  }
}
