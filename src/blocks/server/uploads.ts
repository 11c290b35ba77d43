import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { backoff } from '../../kit/backoff.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Random } from '../../kit/random.ts'
import { Fault, type FaultCode, sentence } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import { buildKey, referenceKey } from '../objects/keys.ts'
import { layered } from '../objects/layered.ts'
import { retrying } from '../objects/retry.ts'
import type { ObjectStore } from '../objects.ts'
import { copyBuild } from '../operations/copy.ts'
import { readBuilds } from '../operations/source.ts'
import { manifestNow } from '../store/manifest-now.ts'

export interface UploadsOptions {
  /** For notes of what is to be done, which the next server goes on with. */
  directory: string
  /** What was made here. */
  local: ObjectStore
  /** Where it is brought. */
  upstream: ObjectStore
  clock: Clock
  random: Random
  log: Log
}

/** A build that cannot be read, or not be found whole, so often is left until the server is started again. */
const mostAttempts = 12
/** What is wrong with the store rather than with the build: it may be mended at any time, so there is no end of trying. */
const storeTroubles: readonly FaultCode[] = ['exhausted', 'unavailable', 'denied', 'not_found']
const longestMs = 5 * 60_000
const prefix = 'build/'

/**
 * Brings builds that are safe here to the object store that this machine shares with others, one after the other and in
 * the background, so that others can start them. There they bear the name `build/ID`, whatever kept them here. One that
 * fails lets the others pass while it waits for its next turn.
 */
export class Uploads {
  readonly #options: UploadsOptions
  readonly #upstream: ObjectStore
  readonly #waiting = new Map<BuildId, AbortController>()
  readonly #end = new AbortController()
  #working: Promise<void> = Promise.resolve()
  /** Builds that wait for their next turn. */
  readonly #pausing = new Set<Promise<void>>()

  constructor(options: UploadsOptions) {
    this.#options = options
    this.#upstream = retrying(options.upstream, options)
  }

  /** Goes on with what an earlier server left. */
  async resume(): Promise<void> {
    await mkdir(this.#options.directory, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(this.#options.directory)) {
      const build = BuildId.safeParse(name)
      if (build.success) this.#enqueue(build.data)
    }
  }

  add(build: BuildId): void {
    if (this.#waiting.has(build)) return
    writeFileSync(join(this.#options.directory, build), '', { mode: 0o600 })
    this.#enqueue(build)
  }

  /** Nobody needs the build of this name any more, here or anywhere. */
  async forget(reference: string): Promise<void> {
    if (!reference.startsWith(prefix)) return
    const build = BuildId.safeParse(reference.slice(prefix.length))
    if (!build.success) return
    this.#waiting.get(build.data)?.abort(new Fault('conflict', `build ${build.data} was deleted`))
    this.#done(build.data)
    await this.#upstream.delete(referenceKey(reference))
  }

  list(): BuildId[] {
    return [...this.#waiting.keys()]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort(new Fault('unavailable', 'the block server is ending'))
    await Promise.all(this.#pausing)
    await this.#working
  }

  #enqueue(build: BuildId): void {
    const giveUp = new AbortController()
    this.#waiting.set(build, giveUp)
    this.#takeTurn(build, 1, AbortSignal.any([giveUp.signal, this.#end.signal]))
  }

  #takeTurn(build: BuildId, attempt: number, signal: AbortSignal): void {
    this.#working = this.#working.then(() => this.#bring(build, attempt, signal))
  }

  #takeTurnLater(build: BuildId, attempt: number, signal: AbortSignal): void {
    const { clock, random } = this.#options
    const pausing = clock
      .sleep(backoff(attempt, { baseMs: 500, maxMs: longestMs, random }), { signal })
      .catch(() => {})
      .finally(() => {
        this.#pausing.delete(pausing)
        this.#takeTurn(build, attempt + 1, signal)
      })
    this.#pausing.add(pausing)
  }

  async #bring(build: BuildId, attempt: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return
    const { local, log } = this.#options
    try {
      const from = readBuilds(layered(local, this.#upstream))
      // It may be based on packs that have been put together in others since.
      if (attempt > 1) {
        const based = await manifestNow(build, { here: local, there: this.#upstream })
        await from.readPacks(based?.packs ?? [])
      }
      const { copiedBytes } = await copyBuild(from, this.#upstream, build, { signal, reference: `${prefix}${build}` })
      if (this.#waiting.has(build)) log.info({ build, copiedBytes }, `build ${build} is in ${this.#upstream.url}`)
      else await this.#upstream.delete(referenceKey(`${prefix}${build}`)) // deleted meanwhile
      this.#done(build)
    } catch (error) {
      if (signal.aborted) return
      const { code } = Fault.from(error)
      const reason = error instanceof Fault ? error.message : sentence(error)
      log.warn({ build, err: error }, `build ${build} could not be brought to the store: ${reason}`)
      const isGone = code === 'not_found' && (await local.size(buildKey(build)).catch(() => 0)) === undefined
      if (isGone) this.#done(build)
      else if (attempt >= mostAttempts && !storeTroubles.includes(code)) this.#waiting.delete(build)
      else this.#takeTurnLater(build, attempt, signal)
    }
  }

  #done(build: BuildId): void {
    this.#waiting.delete(build)
    rmSync(join(this.#options.directory, build), { force: true })
  }
}
