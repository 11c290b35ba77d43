import { decodeChanges } from '../entry.ts'
import type { Database } from './database.ts'
import { checkpointIndex } from './load.ts'
import { synchronousFull, synchronousNormal } from './state-file.ts'
import type { StateLog } from './state-log.ts'

/** Work of one step; a step takes a few milliseconds, and an append waits for at most one. */
const rowsPerStep = 250
const entriesPerRead = 1000

/**
 * Folds the log into rows, in steps. Each step is a transaction of its own, and may end in the middle of what was read:
 * `rows` is then ahead of the checkpoint's index, which does no harm, because loading puts the log after the checkpoint
 * on top. So steps need not be durable either, only in order: they are committed without waiting for the disk.
 */
export class Checkpoint {
  readonly #database: Database
  readonly #log: StateLog
  /** What is being folded: the newest text of each row, by table and key, up to entry `upTo`. */
  #folding: { rows: Iterator<FoldedRow>; upTo: number } | undefined
  index: number

  constructor(database: Database, log: StateLog) {
    this.#database = database
    this.#log = log
    this.index = checkpointIndex(database)
  }

  /** Does one step; false when nothing is left to fold. */
  step(): boolean {
    this.#folding ??= this.#gather()
    if (this.#folding === undefined) return false
    const { rows, upTo } = this.#folding
    const batch = take(rows, rowsPerStep)
    try {
      this.#commit(batch, batch.length < rowsPerStep ? upTo : this.index)
    } catch (error) {
      this.#folding = undefined // the batch is not in; begin again
      throw error
    }
    if (batch.length < rowsPerStep) {
      this.index = upTo
      this.#folding = undefined
    }
    return true
  }

  #gather(): { rows: Iterator<FoldedRow>; upTo: number } | undefined {
    const entries = this.#log.read(this.index, entriesPerRead)
    const newest = entries.at(-1)
    if (newest === undefined) return undefined
    const rows = new Map<string, FoldedRow>()
    for (const { changes } of entries) {
      for (const [table, key, row] of decodeChanges(changes)) rows.set(`${table}\0${key}`, { table, key, row })
    }
    return { rows: rows.values(), upTo: newest.index }
  }

  #commit(rows: readonly FoldedRow[], index: number): void {
    const database = this.#database
    database.exec(synchronousNormal)
    try {
      database.transaction(() => {
        for (const { table, key, row } of rows) {
          if (row === undefined) database.run('DELETE FROM rows WHERE tbl = ? AND key = ?', table, key)
          else database.run('INSERT OR REPLACE INTO rows VALUES (?, ?, ?)', table, key, JSON.stringify(row))
        }
        database.run("UPDATE meta SET value = ? WHERE key = 'checkpoint'", index)
      })
    } finally {
      database.exec(synchronousFull)
    }
  }
}

interface FoldedRow {
  table: string
  key: string
  row: object | undefined
}

function take<T>(items: Iterator<T>, count: number): T[] {
  const taken: T[] = []
  while (taken.length < count) {
    const next = items.next()
    if (next.done) break
    taken.push(next.value)
  }
  return taken
}
