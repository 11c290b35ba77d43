import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { Engine } from '../engine.ts'
import type { Entry } from '../entry.ts'
import type { Kept } from './compaction.ts'
import { loadState } from './load.ts'
import { lockState } from './lock.ts'
import { migrate } from './migrations.ts'
import type { Answer, CheckpointAfter, Request, WorkerOptions } from './protocol.ts'
import { openStateFile, prepareDirectory } from './state-file.ts'

export interface SqliteEngineOptions {
  /** Created when missing, for its owner only. */
  directory: string
  clock: Clock
  checkpointAfter?: CheckpointAfter
  kept?: Kept
  /** Told when work behind the log fails; it is tried again later. */
  onError?: (error: unknown) => void
}

const MiB = 1024 * 1024
/** Without an append for so long, the thread is told to do what it has put off. */
const restAfterMs = 50

/**
 * State in one SQLite file. It is read here, at once, before anybody waits; from then on a thread of its own owns it.
 * Throws a Fault `conflict` when another process has the directory, `invalid` when the file is from a newer version,
 * `unavailable` when it is damaged.
 */
export function openSqliteEngine(options: SqliteEngineOptions): Engine {
  using stack = new DisposableStack()
  const files = prepareDirectory(options.directory)
  stack.use(lockState(files))
  {
    using database = openStateFile(files.database)
    migrate(database)
  }
  return new SqliteEngine(options, files.database, stack.move())
}

class SqliteEngine implements Engine {
  readonly #options: SqliteEngineOptions
  readonly #path: string
  readonly #lock: Disposable
  /** Who waits for an answer, in the order of their requests. */
  readonly #waiting: PromiseWithResolvers<Entry[]>[] = []
  #worker: Worker | undefined
  #appends = 0
  #isWatching = false
  readonly #end = new AbortController()
  #broken: Fault | undefined
  #closing: Promise<void> | undefined

  constructor(options: SqliteEngineOptions, path: string, lock: Disposable) {
    this.#options = options
    this.#path = path
    this.#lock = lock
  }

  async load(receive: (table: string, key: string, row: object | undefined) => void): Promise<{ index: number }> {
    using database = openStateFile(this.#path)
    const loaded = loadState(database, receive)
    this.#worker = this.#startWorker(loaded.index)
    return loaded
  }

  async append(entries: readonly Entry[]): Promise<void> {
    this.#appends++
    this.#watchForRest().catch(() => {}) // ends with the engine
    await this.#ask({ kind: 'append', entries })
  }

  read(after: number, limit: number): Promise<Entry[]> {
    return this.#ask({ kind: 'read', after, limit })
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  #startWorker(newest: number): Worker {
    const { checkpointAfter, kept } = this.#options
    const workerData: WorkerOptions = {
      path: this.#path,
      newest,
      checkpointAfter: checkpointAfter ?? { entries: 5000, bytes: 8 * MiB },
      kept: kept ?? { entries: 20_000, bytes: 64 * MiB },
    }
    const worker = new Worker(workerUrl, { workerData, name: 'state' })
    worker.on('message', (answer: Answer) => this.#take(answer))
    worker.on('error', (error) => this.#break(error))
    worker.on('exit', () => this.#break(undefined))
    return worker
  }

  /** Begun by the first append after a rest; ends by telling of the next one. */
  async #watchForRest(): Promise<void> {
    if (this.#isWatching) return
    this.#isWatching = true
    for (let seen = -1; seen !== this.#appends || this.#waiting.length > 0; ) {
      seen = this.#appends
      await this.#options.clock.sleep(restAfterMs, { signal: this.#end.signal })
    }
    this.#isWatching = false
    this.#worker?.postMessage({ kind: 'rest' } satisfies Request)
  }

  #ask(request: Request): Promise<Entry[]> {
    if (this.#broken) return Promise.reject(this.#broken)
    if (this.#worker === undefined) return Promise.reject(new Fault('internal', 'the engine was used before it loaded'))
    const waiting = Promise.withResolvers<Entry[]>()
    this.#waiting.push(waiting)
    this.#worker.postMessage(request)
    return waiting.promise
  }

  #take(answer: Answer): void {
    if (answer.kind === 'done') {
      this.#waiting.shift()?.resolve(answer.entries)
      return
    }
    const fault = new Fault(answer.code, answer.message, { cause: new Error(answer.cause) })
    if (answer.kind === 'trouble') this.#options.onError?.(fault)
    else this.#waiting.shift()?.reject(fault)
  }

  /** Without its thread nothing can be appended any more, and what was in flight is unclear: only a restart tells. */
  #break(error: unknown): void {
    this.#broken ??= new Fault(
      'unavailable',
      `the thread that writes ${this.#path} ended; restart the control plane`,
      error === undefined ? {} : { cause: error },
    )
    for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#broken)
  }

  async #close(): Promise<void> {
    this.#end.abort()
    try {
      if (this.#worker !== undefined && this.#broken === undefined) {
        const ended = once(this.#worker, 'exit')
        // The last checkpoint may fail, on a full disk for one. Nothing is lost: the log has it all.
        await this.#ask({ kind: 'close' }).catch((error: unknown) => this.#options.onError?.(error))
        await ended
      }
    } finally {
      this.#lock[Symbol.dispose]()
    }
  }
}

/** As TypeScript beside this file, or compiled beside the compiled one. */
const workerUrl = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url)
