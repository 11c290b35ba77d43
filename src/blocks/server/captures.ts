import { readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import { mergePages } from '../memory/merge-pages.ts'
import { movePages, type PagesFile, readPages, removePages } from '../memory/pages-file.ts'

/**
 * The build whose image the machine had mapped, or null when its memory was its own; the build whose pages lay over that
 * image, if any, which the capture then differs from; and how much memory the machine has.
 */
const CaptureNote = z.strictObject({ image: BuildId.nullable(), over: BuildId.nullable(), size: z.int() })
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
  /** Differences in the making, by path. */
  readonly #making = new Map<string, Promise<void>>()

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

  /** A capture that has become a build is kept as that build's difference from the image that the machine had mapped. */
  keep(capture: string, build: BuildId): void {
    const { image, over } = this.noteOf(capture)
    if (image === null) {
      this.drop(capture)
      return
    }
    const into = this.#differencePath(build, image)
    const beneath = over === null ? undefined : readPages(this.#differencePath(over, image))
    if (beneath) {
      // Nobody waits for it but who resumes the build at once.
      this.#make(into, async () => {
        try {
          await mergePages(this.find(capture), beneath, into)
        } finally {
          this.drop(capture)
        }
      }).catch(() => {})
    } else {
      if (over === null) movePages(this.path(capture), into)
      this.drop(capture)
      this.#evict()
    }
  }

  /** Where the pages lie by which a build differs from `base`; `make` is to put them there when they are not. */
  async difference(build: BuildId, base: BuildId, make: (into: string) => Promise<void>): Promise<string> {
    const path = this.#differencePath(build, base)
    await this.#making.get(path)?.catch(() => {})
    if (readPages(path) === undefined) await this.#make(path, () => make(path))
    const now = this.#clock.now() / 1000
    utimesSync(path, now, now)
    return path
  }

  /** Whoever wants the same at once shares it. */
  #make(path: string, make: () => Promise<void>): Promise<void> {
    const known = this.#making.get(path)
    if (known !== undefined) return known
    const making = make()
      // Now it counts; before, the limit would hold only one difference later.
      .then(() => this.#evict({ except: path }))
      .catch((error: unknown) => {
        rmSync(`${path}.part`, { force: true })
        throw error
      })
      .finally(() => this.#making.delete(path))
    this.#making.set(path, making)
    return making
  }

  #differencePath(build: BuildId, base: BuildId): string {
    return join(this.#directory, 'differences', `${build}-${base}`)
  }

  /** Ends when nothing is in the making any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#making.values())
  }

  /** Removes those that were used longest ago when they take too much; never one that somebody waits for. */
  #evict({ except }: { except?: string } = {}): void {
    const directory = join(this.#directory, 'differences')
    const all = readdirSync(directory)
      .filter((name) => !name.includes('.'))
      .map((name) => ({ path: join(directory, name), ...statSync(join(directory, name)) }))
      .sort((a, b) => a.mtimeMs - b.mtimeMs)
    let total = all.reduce((sum, { size }) => sum + size, 0)
    if (total <= this.#keptBytes) return
    for (const { path, size } of all) {
      if (total <= this.#keptBytes * 0.75) return
      if (path === except) continue
      removePages(path)
      total -= size
    }
  }
}
