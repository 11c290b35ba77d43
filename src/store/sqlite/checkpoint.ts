import { decodeChanges } from '../entry.ts'
import type { Database } from './database.ts'
import { checkpointIndex } from './load.ts'
import { synchronousFull, synchronousNormal } from './state-file.ts'
import type { StateLog } from './state-log.ts'

// Work of one step, chosen to take a few milliseconds: an append waits for at most one step.
const entriesPerRead = 500
const lengthPerRead = 512 * 1024
const rowsPerWrite = 250

/** Log gathered before rows are written: the more, the more rows share a page, and the more memory it takes. */
const lengthGathered = 24 * 1024 * 1024

/**
 * Folds the log into rows, in steps: gather the newest of each row from the log, then write them in the order of their
 * keys, so that neighbours on a page are written together. Each write is a transaction of its own and `rows` is ahead of
 * the checkpoint's index until the last one; that does no harm, because loading puts the log after the checkpoint on
 * top. So writes need not be durable either, only in order: they are committed without waiting for the disk.
 */
export class Checkpoint {
  readonly #database: Database
  readonly #log: StateLog
  /** The newest of each row by table and key, JSON text or undefined, up to entry `#gatheredUpTo`. */
  #gathered = new Map<string, FoldedRow>()
  #gatheredUpTo: number
  #gatheredLength = 0
  #writing: FoldedRow[] | undefined
  #written = 0
  /** All of the log up to here is in `rows`. */
  index: number

  constructor(database: Database, log: StateLog) {
    this.#database = database
    this.#log = log
    this.index = checkpointIndex(database)
    this.#gatheredUpTo = this.index
  }

  /** Does one step; false when nothing is left to fold. */
  step(): boolean {
    if (this.#writing !== undefined) this.#write(this.#writing)
    else if (this.#gatheredLength < lengthGathered && this.#gather()) return true
    else if (this.#gatheredUpTo > this.index) this.#writing = sortedByKey(this.#gathered)
    else return false
    return true
  }

  #gather(): boolean {
    const entries = this.#log.read(this.#gatheredUpTo, entriesPerRead, lengthPerRead)
    for (const { index, changes } of entries) {
      for (const [table, key, row] of decodeChanges(changes)) {
        this.#gathered.set(`${table}\0${key}`, { table, key, data: row && JSON.stringify(row) })
      }
      this.#gatheredUpTo = index
      this.#gatheredLength += changes.length
    }
    return entries.length > 0
  }

  /** When it fails nothing is forgotten, and the next step tries the same rows again. */
  #write(all: readonly FoldedRow[]): void {
    const rows = all.slice(this.#written, this.#written + rowsPerWrite)
    const isLast = this.#written + rows.length === all.length
    this.#commit(rows, isLast ? this.#gatheredUpTo : this.index)
    this.#written += rows.length
    if (!isLast) return
    this.index = this.#gatheredUpTo
    this.#gathered = new Map()
    this.#gatheredLength = 0
    this.#writing = undefined
    this.#written = 0
  }

  #commit(rows: readonly FoldedRow[], index: number): void {
    const database = this.#database
    database.exec(synchronousNormal)
    try {
      database.transaction(() => {
        for (const { table, key, data } of rows) {
          if (data === undefined) database.run('DELETE FROM rows WHERE tbl = ? AND key = ?', table, key)
          else database.run('INSERT OR REPLACE INTO rows VALUES (?, ?, ?)', table, key, data)
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
  data: string | undefined
}

function sortedByKey(rows: ReadonlyMap<string, FoldedRow>): FoldedRow[] {
  const sorted = [...rows.keys()].sort() // by code unit: SQLite's order, but for a few keys beyond the basic plane
  return sorted.flatMap((key) => rows.get(key) ?? [])
}
