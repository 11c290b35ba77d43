import { createHash } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { chmod, copyFile, mkdir, mkdtemp, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Clock } from '../../kit/clock.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { Artifact, TaskSpec } from '../../model/job.ts'
import { formatSize } from '../../model/units.ts'
import type { Progress } from '../workspace.ts'
import { download } from './download.ts'
import { moveInto } from './move.ts'
import { giveTree } from './owner.ts'
import { makeInside } from './templates.ts'
import { defaultUnpackedBytes, unpack } from './unpack.ts'

export interface BringOptions {
  signal: AbortSignal
  /** Most bytes, fetched and unpacked; without limit of its own when undefined. */
  maxBytes: number | undefined
  owner: Pick<TaskSpec, 'user' | 'driver'>
  progress: Progress
}

/**
 * Brings artifacts into task directories. What has a checksum is fetched once for all tasks that want it, also when
 * they want it at the same moment, and kept for the next. Everything is fetched, checked and unpacked aside and moved
 * into place at the end, so that a failure leaves nothing behind.
 */
export class ArtifactStore {
  readonly #directory: string
  readonly #clock: Clock
  readonly #idleMs: number
  readonly #keepBytes: number
  readonly #underway = new Map<string, Shared>()
  #ready: Promise<void> | undefined

  constructor(options: { directory: string; clock: Clock; idleMs?: number; keepBytes?: number }) {
    this.#directory = options.directory
    this.#clock = options.clock
    this.#idleMs = options.idleMs ?? 30_000
    this.#keepBytes = options.keepBytes ?? 10 * 2 ** 30
  }

  async bring(artifact: Artifact, directory: string, options: BringOptions): Promise<void> {
    const name = withoutQuery(artifact.url)
    this.#ready ??= this.#sweep()
    await this.#ready
    const work = await mkdtemp(join(this.#directory, 'work-'))
    try {
      options.progress({ message: `fetching ${name}`, done: false })
      const file = artifact.checksum
        ? await this.#shared(artifact, options)
        : await this.#fetch(artifact, join(work, 'file'), options)
      const staging = join(work, 'staging')
      await mkdir(staging)
      const { size } = await stat(file)
      await this.#place(artifact, file, staging, options)
      await giveTree(staging, options.owner)
      const target = await makeInside(directory, artifact.to, options.owner)
      await moveInto(staging, target)
      options.progress({ message: `fetched ${name} (${formatSize(size)})`, done: true })
    } catch (error) {
      if (options.signal.aborted) throw options.signal.reason
      throw explain(error, name)
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }

  /** What an agent that was killed left half done. */
  async #sweep(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    for (const name of await readdir(this.#directory)) {
      if (name.startsWith('work-')) await rm(join(this.#directory, name), { recursive: true, force: true })
    }
  }

  async #place(artifact: Artifact, file: string, staging: string, { maxBytes, signal }: BringOptions): Promise<void> {
    const last = basename(new URL(artifact.url).pathname) || 'artifact'
    const form = artifact.unpack === 'auto' ? formOf(last) : artifact.unpack
    const mode = artifact.mode === undefined ? undefined : Number.parseInt(artifact.mode, 8)
    if (form === 'none' || form === 'gz' || form === 'zst') {
      const plain = form === 'none' ? last : last.replace(/\.(gz|zst)$/, '')
      const path = join(staging, artifact.name ?? decodeURIComponent(plain).replaceAll('/', '_'))
      await mkdir(join(path, '..'), { recursive: true })
      if (form === 'none') await copyFile(file, path, constants.COPYFILE_FICLONE)
      else await unpack(form, file, path, { maxBytes: maxBytes ?? defaultUnpackedBytes, signal })
      await chmod(path, mode ?? 0o644)
      return
    }
    await unpack(form, file, staging, { maxBytes: maxBytes ?? defaultUnpackedBytes, signal })
    if (mode === undefined) return
    for (const entry of await readdir(staging, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) await chmod(join(entry.parentPath, entry.name), mode)
    }
  }

  /** The kept file of a checksum, fetched when it is not there; one fetch for all who wait for it. */
  async #shared(artifact: Artifact, options: BringOptions): Promise<string> {
    const key = (artifact.checksum ?? '').replace(':', '-')
    const kept = join(this.#directory, key)
    const found = await stat(kept).catch(() => undefined)
    if (found) {
      if (options.maxBytes !== undefined && found.size > options.maxBytes) throw tooLarge(options.maxBytes)
      const now = this.#clock.now() / 1000
      await utimes(kept, now, now).catch(() => {})
      return kept
    }
    let shared = this.#underway.get(key)
    if (!shared) {
      const ending = new AbortController()
      const fetched = this.#keep(artifact, kept, { ...options, signal: ending.signal }).finally(() =>
        this.#underway.delete(key),
      )
      fetched.catch(() => {})
      shared = { fetched, waiting: 0, ending }
      this.#underway.set(key, shared)
    }
    shared.waiting += 1
    const leave = Promise.withResolvers<never>()
    leave.promise.catch(() => {})
    const abort = () => leave.reject(options.signal.reason)
    options.signal.addEventListener('abort', abort, { once: true })
    try {
      return await Promise.race([shared.fetched, leave.promise])
    } finally {
      options.signal.removeEventListener('abort', abort)
      shared.waiting -= 1
      if (shared.waiting === 0) shared.ending.abort(new Error('nobody waits for this artifact any more'))
    }
  }

  async #keep(artifact: Artifact, kept: string, options: BringOptions): Promise<string> {
    const work = await mkdtemp(join(this.#directory, 'work-'))
    try {
      const file = await this.#fetch(artifact, join(work, 'file'), options)
      await rename(file, kept)
      await this.#forgetOldest(kept)
      return kept
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }

  async #fetch(artifact: Artifact, to: string, { signal, maxBytes, progress }: BringOptions): Promise<string> {
    const [algorithm = 'sha256', expected] = artifact.checksum?.split(':') ?? []
    const hash = createHash(algorithm)
    const file = await open(to, 'wx', 0o600)
    let size = 0
    try {
      const { chunks, total } = await this.#open(artifact, signal)
      let said = 0
      for await (const chunk of chunks) {
        size += chunk.length
        if (maxBytes !== undefined && size > maxBytes) throw tooLarge(maxBytes)
        hash.update(chunk)
        await file.writeFile(chunk)
        if (size - said < 8 * 2 ** 20) continue
        said = size
        const of = total === undefined ? '' : ` of ${formatSize(total)}`
        progress({ message: `fetching ${withoutQuery(artifact.url)}: ${formatSize(size)}${of}`, done: false })
      }
      if (total !== undefined && size !== total)
        throw new Fault('unavailable', `the transfer broke off after ${size} of ${total} bytes`)
    } finally {
      await file.close()
    }
    const got = hash.digest('hex')
    if (expected !== undefined && got !== expected) {
      throw new Fault('invalid', `wrong checksum: expected ${algorithm}:${expected}, got ${algorithm}:${got}`)
    }
    return to
  }

  async #open(
    artifact: Artifact,
    signal: AbortSignal,
  ): Promise<{ chunks: AsyncIterable<Uint8Array>; total: number | undefined }> {
    if (!artifact.url.startsWith('file:')) {
      return await download(artifact.url, {
        headers: artifact.headers,
        clock: this.#clock,
        idleMs: this.#idleMs,
        signal,
      })
    }
    const path = fileURLToPath(artifact.url)
    const found = await stat(path)
    if (!found.isFile()) throw new Fault('invalid', `${path} is not a file`)
    return { chunks: createReadStream(path, { signal }), total: undefined }
  }

  /** Keeps what was used last, within the bytes set aside for it. */
  async #forgetOldest(fresh: string): Promise<void> {
    const kept: { path: string; size: number; usedAt: number }[] = []
    for (const name of await readdir(this.#directory)) {
      if (!/^sha(256|512)-/.test(name)) continue
      const path = join(this.#directory, name)
      const found = await stat(path).catch(() => undefined)
      if (found)
        kept.push({ path, size: found.size, usedAt: path === fresh ? Number.POSITIVE_INFINITY : found.mtimeMs })
    }
    kept.sort((one, other) => other.usedAt - one.usedAt)
    let sum = 0
    for (const { path, size } of kept) {
      sum += size
      if (sum > this.#keepBytes && path !== fresh) await rm(path, { force: true })
    }
  }
}

interface Shared {
  fetched: Promise<string>
  waiting: number
  ending: AbortController
}

function formOf(name: string): Exclude<Artifact['unpack'], 'auto'> {
  if (/\.(tar\.gz|tgz)$/i.test(name)) return 'tar.gz'
  if (/\.(tar\.zst|tzst)$/i.test(name)) return 'tar.zst'
  if (/\.tar$/i.test(name)) return 'tar'
  if (/\.zip$/i.test(name)) return 'zip'
  if (/\.gz$/i.test(name)) return 'gz'
  return /\.zst$/i.test(name) ? 'zst' : 'none'
}

function tooLarge(maxBytes: number): Fault {
  return new Fault('invalid', `it is larger than the task's disk of ${formatSize(maxBytes)}`)
}

/** A query may hold a signature: it is nobody's to read in an event. */
function withoutQuery(url: string): string {
  const parsed = new URL(url)
  return `${parsed.protocol}//${parsed.host}${parsed.pathname}`
}

function explain(error: unknown, name: string): Fault {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new Fault('exhausted', `artifact ${name} could not be stored: the disk of this node is full`, {
      cause: error,
    })
  }
  if (code === 'ENOENT') return new Fault('not_found', `artifact ${name} could not be fetched: ${sentence(error)}`)
  const fault = error instanceof Fault ? error.code : 'unavailable'
  return new Fault(fault, `artifact ${name} could not be fetched: ${sentence(error)}`)
}
