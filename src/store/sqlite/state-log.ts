import { Fault } from '../../model/fault.ts'
import type { Entry } from '../entry.ts'
import type { Database } from './database.ts'

/** The log table: appends that are durable when they return, and reads. */
export class StateLog {
  readonly #database: Database
  #newest: number
  #isTailUnclear = false
  /** Entries in the table, and the bytes of their text; kept for compaction. */
  entries: number
  bytes: number

  constructor(database: Database, { newest }: { newest: number }) {
    this.#database = database
    this.#newest = newest
    const [entries, bytes] = database.first<[number, number]>(
      'SELECT count(*), coalesce(sum(octet_length(changes)), 0) FROM log',
    ) ?? [0, 0]
    this.entries = entries
    this.bytes = bytes
    const [found] = database.first<[number]>('SELECT coalesce(max(idx), 0) FROM log') ?? [0]
    if (found > newest) throw new Fault('internal', `the log holds commit ${found}, but only ${newest} were loaded`)
  }

  get newest(): number {
    return this.#newest
  }

  append(entries: readonly Entry[]): void {
    if (this.#isTailUnclear) this.#dropUnacknowledged()
    let index = this.#newest
    let bytes = 0
    try {
      this.#database.transaction(() => {
        for (const entry of entries) {
          if (entry.index !== ++index) throw new Fault('internal', `entry ${entry.index} came where ${index} belongs`)
          this.#database.run('INSERT INTO log VALUES (?, ?, ?)', entry.index, entry.at, entry.changes)
          bytes += entry.changes.length // in characters: near enough for a limit
        }
      })
    } catch (error) {
      this.#isTailUnclear = true
      throw error
    }
    this.#newest = index
    this.entries += entries.length
    this.bytes += bytes
  }

  /** At most `limit` entries, and none after `maxLength` characters were read. */
  read(after: number, limit: number, maxLength: number): Entry[] {
    const found: Entry[] = []
    let length = 0
    const rows = this.#database.rows<[number, number, string]>(
      'SELECT idx, at, changes FROM log WHERE idx > ? ORDER BY idx LIMIT ?',
      after,
      limit,
    )
    for (const [index, at, changes] of rows) {
      if (index > this.#newest) break
      found.push({ index, at, changes })
      length += changes.length
      if (length > maxLength) break
    }
    return found
  }

  /** An append that failed was almost surely rolled back; what was not must go, its writers were told that it did. */
  #dropUnacknowledged(): void {
    this.#database.transaction(() => this.#database.run('DELETE FROM log WHERE idx > ?', this.#newest))
    this.#isTailUnclear = false
  }
}
