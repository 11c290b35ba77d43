import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { type Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { formatSize } from '../../model/units.ts'

export interface CacheStoreOptions {
  directory: string
  clock: Clock
  /** Of all caches together; one alone may take half of it. */
  maxBytes?: number
}

const keptMs = 30 * 86_400_000

/**
 * What `RUN --mount=type=cache` keeps between builds, as an archive for each cache. A cache is one template's: whoever may
 * build that could put anything into it anyway, and nobody puts anything into another's.
 */
export class CacheStore {
  readonly #directory: string
  readonly #clock: Clock
  readonly #maxBytes: number

  constructor({ directory, clock, maxBytes = 8 * 2 ** 30 }: CacheStoreOptions) {
    this.#directory = directory
    this.#clock = clock
    this.#maxBytes = maxBytes
  }

  /** The archive as it was saved last; undefined when there is none. */
  async open(template: string, id: string): Promise<Readable | undefined> {
    const file = this.#file(template, id)
    if (!(await stat(file).catch(() => undefined))) return undefined
    return createReadStream(file)
  }

  /** Takes the place of what was saved before, once the stream has ended. Throws a Fault `exhausted` for one that is too large. */
  async save(template: string, id: string, archive: Readable, { signal }: { signal: AbortSignal }): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    const file = this.#file(template, id)
    const unfinished = `${file}.new`
    const most = this.#maxBytes / 2
    let size = 0
    const counting = new Transform({
      transform(chunk: Buffer, _, done) {
        size += chunk.length
        done(size > most ? new Fault('exhausted', `it is larger than ${formatSize(most)}`) : null, chunk)
      },
    })
    try {
      await pipeline(archive, counting, createWriteStream(unfinished, { mode: 0o600 }), { signal })
      await rename(unfinished, file)
      const now = this.#clock.now() / 1000
      await utimes(file, now, now)
    } finally {
      await rm(unfinished, { force: true })
    }
    await this.#trim()
  }

  /** Those that no build has used for long go, and the oldest of the others while all are too large. */
  async #trim(): Promise<void> {
    const files = await Promise.all(
      (await readdir(this.#directory)).map(async (name) => {
        const file = join(this.#directory, name)
        const { size, mtimeMs } = await stat(file)
        return { file, size, mtimeMs }
      }),
    )
    let left = files.reduce((sum, { size }) => sum + size, 0)
    for (const { file, size, mtimeMs } of files.sort((a, b) => a.mtimeMs - b.mtimeMs)) {
      if (left <= this.#maxBytes && this.#clock.now() - mtimeMs < keptMs) continue
      await rm(file, { force: true })
      left -= size
    }
  }

  #file(template: string, id: string): string {
    const name = createHash('sha256')
      .update(JSON.stringify([template, id]))
      .digest('hex')
    return join(this.#directory, `${name}.tar`)
  }
}
