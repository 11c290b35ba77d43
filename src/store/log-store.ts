import type { Clock } from '../kit/clock.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { Engine } from './engine.ts'
import { type Entry, isKnownTable } from './entry.ts'
import { type FollowSource, follow } from './follow.ts'
import { Layer } from './layer.ts'
import { LayeredView } from './layered-view.ts'
import { freezePlain } from './plain.ts'
import { RecentCommits } from './recent-commits.ts'
import type { Change, Commit, Store, Tx, View, Written } from './store.ts'
import { runTransaction, type TransactionResult } from './transaction.ts'

export interface StoreOptions {
  engine: Engine
  clock: Clock
  /** Freezes rows deeply and refuses such as JSON cannot hold. On in tests; costs about a microsecond for each field. */
  debug?: boolean
  /** Told what a listener threw. */
  onError?: (error: unknown) => void
  /** Commits kept in memory for followers. */
  recent?: { maxCommits: number; maxRows: number }
  /** Commits that a follower, once up to date, may fall behind. */
  maxLag?: number
  /** Calls back when the writes of this turn are collected: `setImmediate`, or what a simulation has instead. */
  turn?: (flush: () => void) => void
}

/** The state of `engine`, ready to be read and written. The store closes the engine, also when it cannot be loaded. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const durable = new Layer({ isBottom: true })
  try {
    const { index } = await options.engine.load((table, key, row) => {
      if (!isKnownTable(table)) return // a newer program's; the engine keeps it
      if (options.debug && row !== undefined) freezePlain(row, `${table} "${key}"`)
      durable.set(table, key, row, durable.rows(table).get(key))
    })
    return new LogStore({ ...options, durable, index })
  } catch (error) {
    await options.engine.close().catch(() => {}) // why it could not be loaded says more
    throw error
  }
}

/** Writes that become durable with one append, or fail together. */
interface Batch {
  layer: Layer
  entries: Entry[]
  commits: Commit[]
  /** Commits that are not yet in the durable view. */
  left: number
  durable: PromiseWithResolvers<void>
}

/**
 * A store over any engine: log first, then the view. At most two batches are on their way, one being written and one
 * being collected behind it:
 *
 *   write() ─▶ collecting ─▶ writing (one append) ─▶ durable view ─▶ listeners, followers, writers
 *
 * Writers read through both, so when an append fails, both batches do.
 */
class LogStore implements Store, FollowSource {
  readonly view: View
  readonly engine: Engine
  readonly recent: RecentCommits
  readonly #clock: Clock
  readonly #debug: boolean
  readonly #onError: (error: unknown) => void
  readonly #maxLag: number
  readonly #turn: (flush: () => void) => void
  readonly #durable: Layer
  readonly #listeners = new Set<(commit: Commit) => void>()
  readonly #waiting = new Set<() => void>()
  #index: number
  #collecting: Batch | undefined
  #writing: Batch | undefined
  #isFlushPlanned = false
  #isInChange = false
  #closing: Promise<void> | undefined
  isClosed = false

  constructor(options: StoreOptions & { durable: Layer; index: number }) {
    this.view = new LayeredView([options.durable])
    this.engine = options.engine
    this.recent = new RecentCommits(options.recent ?? { maxCommits: 4096, maxRows: 65_536 })
    this.#clock = options.clock
    this.#debug = options.debug ?? false
    this.#onError = options.onError ?? (() => {})
    this.#maxLag = options.maxLag ?? 10_000
    this.#turn = options.turn ?? setImmediate
    this.#durable = options.durable
    this.#index = options.index
  }

  get index(): number {
    return this.#index
  }

  async write<T>(change: (tx: Tx) => T): Promise<Written<T>> {
    if (this.#closing !== undefined) throw closed()
    const at = this.#clock.now()
    const { result, changes, encoded, layer } = this.#run(change, at)
    if (changes.length > 0) this.#collect(changes, encoded, layer, at)
    // A write without changes waits too: its result may rest on what others have staged.
    const index = this.#stagedIndex
    await (this.#collecting ?? this.#writing)?.durable.promise
    return { index, result }
  }

  follow(from: number, { signal }: { signal: AbortSignal }): AsyncIterable<Commit> {
    return follow(this, { from, maxLag: this.#maxLag, signal })
  }

  subscribe(listener: (commit: Commit) => void): () => void {
    const own = (commit: Commit) => listener(commit) // so that one function may listen twice
    this.#listeners.add(own)
    return () => void this.#listeners.delete(own)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  changed(signal: AbortSignal): Promise<void> {
    if (signal.aborted || this.isClosed) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake)
        signal.removeEventListener('abort', wake)
        resolve()
      }
      this.#waiting.add(wake)
      signal.addEventListener('abort', wake)
    })
  }

  get #stagedIndex(): number {
    return this.#index + (this.#writing?.left ?? 0) + (this.#collecting?.left ?? 0)
  }

  #run<T>(change: (tx: Tx) => T, now: number): TransactionResult<T> {
    if (this.#isInChange) throw new Fault('internal', 'a write was begun inside the change of another write')
    const below = [this.#collecting?.layer, this.#writing?.layer, this.#durable].filter((layer) => layer !== undefined)
    this.#isInChange = true
    try {
      return runTransaction(change, { now, below, debug: this.#debug })
    } finally {
      this.#isInChange = false
    }
  }

  #collect(changes: readonly Change[], encoded: string, layer: Layer, at: number): void {
    const index = this.#stagedIndex + 1
    if (this.#collecting === undefined) this.#collecting = newBatch(layer)
    else for (const { table, key, row, before } of changes) this.#collecting.layer.set(table, key, row, before)
    this.#collecting.commits.push({ index, at, changes })
    this.#collecting.entries.push({ index, at, changes: encoded })
    this.#collecting.left++
    this.#planFlush()
  }

  /** On the next turn, so that the writes of one turn share an append; while one is under way all others collect. */
  #planFlush(): void {
    if (this.#isFlushPlanned || this.#writing || !this.#collecting) return
    this.#isFlushPlanned = true
    this.#turn(() => {
      this.#isFlushPlanned = false
      void this.#flush()
    })
  }

  async #flush(): Promise<void> {
    const batch = this.#collecting
    if (batch === undefined) return
    this.#collecting = undefined
    this.#writing = batch
    try {
      await this.engine.append(batch.entries)
    } catch (error) {
      this.#drop(notDurable(error))
      return
    }
    for (const commit of batch.commits) this.#publish(commit, batch)
    this.#writing = undefined
    batch.durable.resolve()
    this.#planFlush()
  }

  #publish(commit: Commit, batch: Batch): void {
    for (const { table, key, row, before } of commit.changes) {
      this.#durable.set(table, key, row, before)
      batch.layer.settle(table, row, before)
    }
    this.#index = commit.index
    batch.left--
    this.recent.push(commit)
    for (const listener of [...this.#listeners]) this.#tell(listener, commit)
    for (const wake of this.#waiting) wake()
  }

  #tell(listener: (commit: Commit) => void, commit: Commit): void {
    try {
      listener(commit)
    } catch (error) {
      this.#onError(error)
    }
  }

  /** Both batches go: the one behind may rest on rows of the one that failed. */
  #drop(fault: Fault): void {
    this.#writing?.durable.reject(fault)
    this.#collecting?.durable.reject(fault)
    this.#writing = undefined
    this.#collecting = undefined
  }

  async #close(): Promise<void> {
    for (;;) {
      const batch = this.#collecting ?? this.#writing
      if (batch === undefined) break
      await batch.durable.promise.catch(() => {}) // its writers are told
    }
    this.isClosed = true
    for (const wake of this.#waiting) wake()
    await this.engine.close()
  }
}

function newBatch(layer: Layer): Batch {
  return { layer, entries: [], commits: [], left: 0, durable: Promise.withResolvers() }
}

/** An engine's own sentence is the best there is. */
function notDurable(error: unknown): Fault {
  if (error instanceof Fault) return error
  if ((error as { code?: unknown } | null)?.code === 'ENOSPC') {
    return new Fault('exhausted', 'the disk is full, so the write was dropped; free some space, then try again', {
      cause: error,
    })
  }
  return new Fault('unavailable', `the write could not be made durable and was dropped: ${sentence(error)}`, {
    cause: error,
  })
}

function closed(): Fault {
  return new Fault('unavailable', 'the store is closed; nothing can be written any more')
}
