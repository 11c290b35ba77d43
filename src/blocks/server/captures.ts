import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import { movePages, type PagesFile, readPages, removePages } from '../memory/pages-file.ts'

/** The build that the machine had mapped, or null when its memory was its own, and how much memory it has. */
const CaptureNote = z.strictObject({ base: BuildId.nullable(), size: z.int() })
type CaptureNote = z.infer<typeof CaptureNote>

/**
 * Files of pages: of machines that were just stopped, which are to become builds, and of builds, by what they differ from
 * the build they were made on, so that a paused sandbox goes on without its pages being unpacked again. The latter are
 * kept within limits; the content store has everything.
 */
export class Captures {
  readonly #directory: string
  readonly #clock: Clock
  readonly #keptBytes: number

  constructor(options: { directory: string; clock: Clock; keptBytes: number }) {
    this.#directory = options.directory
    this.#clock = options.clock
    this.#keptBytes = options.keptBytes
  }

  async prepare(): Promise<void> {
    await mkdir(join(this.#directory, 'captures'), { recursive: true, mode: 0o700 })
    await mkdir(join(this.#directory, 'differences'), { recursive: true, mode: 0o700 })
    for (const name of readdirSync(join(this.#directory, 'differences')))
      if (name.endsWith('.part')) rmSync(join(this.#directory, 'differences', name), { force: true })
  }

  path(capture: string): string {
    return join(this.#directory, 'captures', capture)
  }

  find(capture: string): PagesFile {
    const pages = readPages(this.path(capture))
    if (pages === undefined) throw new Fault('not_found', `there is no capture ${capture}`)
    return pages
  }

  drop(capture: string): void {
    removePages(this.path(capture))
    rmSync(this.#notePath(capture), { force: true })
  }

  /** What the capture is of; outlives this process, as the capture does. */
  note(capture: string, note: CaptureNote): void {
    writeFileSync(this.#notePath(capture), JSON.stringify(note), { mode: 0o600 })
  }

  noteOf(capture: string): CaptureNote {
    try {
      return CaptureNote.parse(JSON.parse(readFileSync(this.#notePath(capture), 'utf8')))
    } catch (cause) {
      throw new Fault('not_found', `there is no capture ${capture}`, { cause })
    }
  }

  #notePath(capture: string): string {
    return `${this.path(capture)}.json`
  }

  list(): string[] {
    return readdirSync(join(this.#directory, 'captures')).filter((name) => !name.includes('.'))
  }

  /** A capture that has become a build is kept as that build's difference from `base`. */
  keep(capture: string, build: BuildId, base: BuildId | null): void {
    if (base !== null) movePages(this.path(capture), this.differencePath(build, base))
    this.drop(capture)
    this.#evict()
  }

  differencePath(build: BuildId, base: BuildId): string {
    return join(this.#directory, 'differences', `${build}-${base}`)
  }

  difference(build: BuildId, base: BuildId): PagesFile | undefined {
    const path = this.differencePath(build, base)
    const pages = readPages(path)
    if (pages === undefined) return undefined
    const now = this.#clock.now() / 1000
    utimesSync(path, now, now)
    return pages
  }

  #evict(): void {
    const directory = join(this.#directory, 'differences')
    const all = readdirSync(directory)
      .filter((name) => !name.includes('.'))
      .map((name) => ({ path: join(directory, name), ...statSync(join(directory, name)) }))
      .sort((a, b) => a.mtimeMs - b.mtimeMs)
    let total = all.reduce((sum, { size }) => sum + size, 0)
    if (total <= this.#keptBytes) return
    for (const { path, size } of all) {
      if (total <= this.#keptBytes * 0.75) return
      removePages(path)
      total -= size
    }
  }
}
