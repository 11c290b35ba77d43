import { execFile } from 'node:child_process'
import { copyFile, open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import type { LogFile } from '../workspace.ts'

/**
 * A task appends to its output file itself, also while the agent is away, so nobody can rotate it between two writes.
 * Instead the head of the file is cut off in place: on Linux by punching a hole, which loses and doubles not one byte
 * and leaves every offset as it was; elsewhere by keeping a copy and emptying the file. A small file beside it says
 * where what is kept begins.
 */
interface Extent {
  /** Offset of the first byte kept. */
  start: number
  /** Offset of the file's own first byte; above zero only where the file was emptied. */
  base: number
}

/** At least this much is cut off at a time, so that it is not done for every line. */
const stepBytes = 256 * 1024
const blockBytes = 4096

/** Keeps the newest `keepBytes`, and somewhat more. */
export async function trimLog(
  path: string,
  keepBytes: number,
  { punch = canPunch() }: { punch?: boolean } = {},
): Promise<void> {
  const size = await sizeOf(path)
  const { start, base } = await readExtent(path)
  if (base + size - start <= keepBytes + Math.min(stepBytes, keepBytes)) return
  if (punch) {
    const cut = Math.floor((size - keepBytes) / blockBytes) * blockBytes
    if (cut <= start) return
    // Written first: a reader that comes between skips what is still there, instead of reading the hole.
    await writeExtent(path, { start: cut, base })
    try {
      await run('fallocate', ['--punch-hole', '--keep-size', '--offset', '0', '--length', String(cut), path])
      return
    } catch {
      punching = false
    }
  }
  await keepCopy(path, size, base)
}

const run = promisify(execFile)
let punching: boolean | undefined

/** Asked of the system once, by trying; not every file system and not every system can. */
function canPunch(): boolean {
  punching ??= process.platform === 'linux'
  return punching
}

/** What is written between copying and emptying is lost; there is no better way without holes. */
async function keepCopy(path: string, size: number, base: number): Promise<void> {
  await copyFile(path, `${path}.copying`)
  const copied = await sizeOf(`${path}.copying`)
  await rename(`${path}.copying`, `${path}.old`)
  await writeExtent(path, { start: base, base: base + Math.max(size, copied) })
  await truncate(path, 0)
}

export class DiskLog implements LogFile {
  readonly #path: string

  constructor(path: string) {
    this.#path = path
  }

  async extent(): Promise<{ start: number; end: number }> {
    const { start, base } = await readExtent(this.#path)
    const end = base + (await sizeOf(this.#path))
    return { start: Math.min(start, end), end }
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const { start, base } = await readExtent(this.#path)
    if (offset < start) return Buffer.alloc(0)
    if (offset >= base) return await readAt(this.#path, offset - base, length)
    const old = await sizeOf(`${this.#path}.old`)
    return await readAt(`${this.#path}.old`, offset - (base - old), Math.min(length, base - offset))
  }
}

async function readAt(path: string, offset: number, length: number): Promise<Buffer> {
  const file = await open(path, 'r').catch(() => undefined)
  if (!file) return Buffer.alloc(0)
  try {
    const buffer = Buffer.alloc(length)
    const { bytesRead } = await file.read(buffer, 0, length, offset)
    return buffer.subarray(0, bytesRead)
  } finally {
    await file.close()
  }
}

async function sizeOf(path: string): Promise<number> {
  return await stat(path).then(
    ({ size }) => size,
    () => 0,
  )
}

async function readExtent(path: string): Promise<Extent> {
  const text = await readFile(`${path}.kept`, 'utf8').catch(() => '')
  const [start = 0, base = 0] = text.split(' ').map(Number)
  return { start: Number.isSafeInteger(start) ? start : 0, base: Number.isSafeInteger(base) ? base : 0 }
}

async function writeExtent(path: string, { start, base }: Extent): Promise<void> {
  const fresh = `${path}.kept.new`
  await writeFile(fresh, `${start} ${base}`, { mode: 0o600 })
  await rename(fresh, `${path}.kept`).catch(async (error: unknown) => {
    await rm(fresh, { force: true })
    throw error
  })
}
