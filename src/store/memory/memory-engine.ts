import { Fault } from '../../model/fault.ts'
import type { Engine } from '../engine.ts'
import { decodeChanges, type Entry } from '../entry.ts'

/** What a memory engine writes on: hand it to the next engine to restart. */
export class MemoryMedium {
  /** State at the index before the oldest entry of `log`: JSON text by table and key. */
  readonly rows = new Map<string, { table: string; key: string; text: string }>()
  log: Entry[] = []
  index = 0
}

export interface MemoryEngineOptions {
  medium?: MemoryMedium
  /** Entries kept for readers; older ones are folded into rows. */
  keptEntries?: number
}

/**
 * An engine in memory for tests and simulation: no timer, no I/O, only promises, so the same calls give the same run.
 * It can be told to fail, and to hold appends in flight.
 */
export class MemoryEngine implements Engine {
  readonly medium: MemoryMedium
  readonly #keptEntries: number
  #failures: unknown[] = []
  #gate: PromiseWithResolvers<void> | undefined
  #isClosed = false
  /** Appends begun so far, failed ones too. */
  appends = 0

  constructor({ medium = new MemoryMedium(), keptEntries = 20_000 }: MemoryEngineOptions = {}) {
    this.medium = medium
    this.#keptEntries = keptEntries
  }

  /** The next append, or the next after those already told, rejects with `error` and leaves nothing behind. */
  failNextAppend(error: unknown = new Fault('unavailable', 'the memory engine was told to fail')): void {
    this.#failures.push(error)
  }

  /** Appends wait in flight from now until `resume`. */
  pause(): void {
    this.#gate ??= Promise.withResolvers()
  }

  resume(): void {
    this.#gate?.resolve()
    this.#gate = undefined
  }

  async load(receive: (table: string, key: string, row: object | undefined) => void): Promise<{ index: number }> {
    for (const { table, key, text } of this.medium.rows.values()) receive(table, key, JSON.parse(text))
    for (const entry of this.medium.log)
      for (const change of decodeChanges(entry.changes)) receive(change[0], change[1], change[2])
    return { index: this.medium.index }
  }

  async append(entries: readonly Entry[]): Promise<void> {
    this.appends++
    await this.#gate?.promise
    if (this.#isClosed) throw new Fault('unavailable', 'the memory engine is closed')
    if (this.#failures.length > 0) throw this.#failures.shift()
    let next = this.medium.index + 1
    for (const entry of entries) {
      if (entry.index !== next) throw new Fault('internal', `entry ${entry.index} was appended where ${next} belongs`)
      next++
    }
    this.medium.log.push(...entries)
    this.medium.index = next - 1
    if (this.medium.log.length > this.#keptEntries * 1.5) this.#fold()
  }

  async read(after: number, limit: number): Promise<Entry[]> {
    const oldest = this.medium.log[0]?.index ?? 0
    const start = Math.max(0, after + 1 - oldest)
    return this.medium.log.slice(start, start + limit)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.resume()
  }

  #fold(): void {
    const { rows, log } = this.medium
    for (const entry of log.splice(0, log.length - this.#keptEntries)) {
      for (const [table, key, row] of decodeChanges(entry.changes)) {
        if (row === undefined) rows.delete(`${table}\0${key}`)
        else rows.set(`${table}\0${key}`, { table, key, text: JSON.stringify(row) })
      }
    }
  }
}
