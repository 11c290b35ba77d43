import { readdirSync, rmSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { backoff } from '../../kit/backoff.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import type { Random } from '../../kit/random.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import { referenceKey } from '../objects/keys.ts'
import { layered } from '../objects/layered.ts'
import { retrying } from '../objects/retry.ts'
import type { ObjectStore } from '../objects.ts'
import { copyBuild } from '../operations/copy.ts'
import { readBuilds } from '../operations/source.ts'

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

/** A build that could not be brought there so often is left until the server is started again. */
const mostAttempts = 12
const longestMs = 5 * 60_000
const prefix = 'build/'

/**
 * Brings builds that are safe here to the object store that this machine shares with others, one after the other and in
 * the background, so that others can start them. There they bear the name `build/ID`, whatever kept them here.
 */
export class Uploads {
  readonly #options: UploadsOptions
  readonly #upstream: ObjectStore
  readonly #waiting = new Map<BuildId, AbortController>()
  readonly #end = new AbortController()
  #working: Promise<void> = Promise.resolve()

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
    await this.#working
  }

  #enqueue(build: BuildId): void {
    const giveUp = new AbortController()
    this.#waiting.set(build, giveUp)
    this.#working = this.#working.then(() => this.#bring(build, AbortSignal.any([giveUp.signal, this.#end.signal])))
  }

  async #bring(build: BuildId, signal: AbortSignal): Promise<void> {
    const { local, clock, random, log } = this.#options
    for (let attempt = 1; !signal.aborted; attempt += 1) {
      try {
        const from = readBuilds(layered(local, this.#upstream))
        const { copiedBytes } = await copyBuild(from, this.#upstream, build, { signal, reference: `${prefix}${build}` })
        if (this.#waiting.has(build)) log.info({ build, copiedBytes }, `build ${build} is in ${this.#upstream.url}`)
        else await this.#upstream.delete(referenceKey(`${prefix}${build}`)) // deleted meanwhile
        return this.#done(build)
      } catch (error) {
        if (signal.aborted) return
        const { code } = Fault.from(error)
        log.warn({ build, err: error }, `build ${build} could not be brought to the store: ${sentence(error)}`)
        if (code === 'not_found') return this.#done(build) // it is no more
        if (attempt >= mostAttempts) return void this.#waiting.delete(build)
        await clock.sleep(backoff(attempt, { baseMs: 500, maxMs: longestMs, random }), { signal }).catch(() => {})
      }
    }
  }

  #done(build: BuildId): void {
    this.#waiting.delete(build)
    rmSync(join(this.#options.directory, build), { force: true })
  }
}
