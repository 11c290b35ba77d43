import { type FSWatcher, watch } from 'node:fs'
import type { Guest } from '../../../guest/guest.ts'
import type { Clock } from '../../../kit/clock.ts'
import { Wakeup } from '../../../kit/wakeup.ts'
import { Fault } from '../../../model/fault.ts'
import type { Exit, Handle, Stats } from '../../driver.ts'
import { sendSignal } from '../processes.ts'
import type { AttemptFiles } from './attempt.ts'

export interface PlainHandleOptions {
  files: AttemptFiles
  watch: AttemptWatch
  clock: Clock
  guest: Guest
  stats: () => Promise<Stats>
}

/** A grip on one container. The container does not know of it. */
export class PlainHandle implements Handle {
  readonly pid: number | undefined
  readonly startedAt: number
  readonly exited: Promise<Exit>
  readonly guest: Guest
  readonly #options: PlainHandleOptions

  constructor(options: PlainHandleOptions) {
    const { files } = options
    this.#options = options
    this.pid = files.pid
    this.startedAt = files.startedAt
    this.guest = options.guest
    this.exited = options.watch.ended()
  }

  async signal(name: string): Promise<void> {
    const pid = this.#options.files.livePid
    if (pid === undefined || !sendSignal(pid, name as NodeJS.Signals))
      throw new Fault('conflict', `cannot send ${name}: the container has ended`)
  }

  async stop({ signal, graceMs }: { signal: string; graceMs: number }): Promise<void> {
    const { files, clock } = this.#options
    const asked = files.livePid
    if (asked !== undefined) sendSignal(asked, signal as NodeJS.Signals)
    const done = new AbortController()
    const patience = clock.sleep(graceMs, { signal: done.signal }).catch(() => {})
    await Promise.race([this.exited, patience])
    done.abort()
    // It is the first of its process namespace: the kernel ends all the others with it.
    const left = files.livePid
    if (left !== undefined) sendSignal(left, 'SIGKILL')
    await this.exited
  }

  async stats(): Promise<Stats> {
    if (this.#options.files.livePid === undefined) throw new Fault('conflict', 'the container has ended')
    return this.#options.stats()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#options.watch[Symbol.dispose]()
  }
}

/** Follows the files of an attempt. */
export class AttemptWatch implements Disposable {
  readonly #files: AttemptFiles
  readonly #clock: Clock
  readonly #wakeup = new Wakeup()
  readonly #done = new AbortController()
  readonly #watcher: FSWatcher
  #over = false

  constructor(files: AttemptFiles, clock: Clock) {
    this.#files = files
    this.#clock = clock
    this.#watcher = watch(files.directory, { persistent: false }, () => this.#wakeup.ring())
    this.#watcher.on('error', () => {})
  }

  /** To be called when the supervisor that we started has ended. */
  over(): void {
    this.#over = true
    this.#wakeup.ring()
  }

  /** Resolves when the task runs, or when it is clear that it will not. */
  async begun(signal: AbortSignal): Promise<'running' | 'exited' | 'failed' | 'vanished'> {
    for (;;) {
      signal.throwIfAborted()
      const over = this.#over
      const state = this.#files.look()
      if (state !== 'starting' && state !== 'none') return state
      if (over) return 'failed'
      await this.#wakeup.next({ clock: this.#clock, withinMs: 100, signal })
    }
  }

  /** Settles when the attempt is over. After disposal, never. */
  async ended(): Promise<Exit> {
    const { signal } = this.#done
    while (!signal.aborted) {
      const state = this.#files.look()
      if (state !== 'running') {
        this[Symbol.dispose]()
        return this.#files.exit ?? { code: 255, unknown: 'the container is gone and nobody saw it end' }
      }
      await this.#wakeup.next({ clock: this.#clock, withinMs: 1000, signal })
    }
    return new Promise(() => {})
  }

  [Symbol.dispose](): void {
    this.#done.abort()
    this.#watcher.close()
  }
}
