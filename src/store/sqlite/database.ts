import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { Fault } from '../../model/fault.ts'

/** What may be bound. SQLite would take more and store NULL for it. */
export type Value = string | number | null

/**
 * A connection to one SQLite file; the only file of the store that knows `node:sqlite`. Statements are prepared once, values
 * are checked, errors become faults that name the file and say what would help.
 */
export class Database implements Disposable {
  readonly path: string
  readonly #connection: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()

  constructor(path: string, { busyTimeoutMs = 5000 }: { busyTimeoutMs?: number } = {}) {
    this.path = path
    this.#connection = this.#attempt(() => new DatabaseSync(path, { timeout: busyTimeoutMs }))
  }

  /** Any SQL without values; several statements at once. */
  exec(sql: string): void {
    this.#attempt(() => this.#connection.exec(sql))
  }

  run(sql: string, ...values: Value[]): void {
    this.#attempt(() => this.#prepare(sql, values).run(...values))
  }

  /** The first row's columns; undefined when there is no row. The caller knows what it selected. */
  first<Row extends Value[]>(sql: string, ...values: Value[]): Row | undefined {
    for (const row of this.rows<Row>(sql, ...values)) return row
    return undefined
  }

  /** Rows as arrays of their columns, read as they are asked for. */
  *rows<Row extends Value[]>(sql: string, ...values: Value[]): Generator<Row> {
    try {
      for (const row of this.#prepare(sql, values).iterate(...values)) yield row as unknown as Row
    } catch (error) {
      throw databaseFault(error, this.path)
    }
  }

  /** All or nothing. */
  transaction<T>(work: () => T): T {
    this.exec('BEGIN IMMEDIATE')
    try {
      const result = work()
      this.exec('COMMIT')
      return result
    } catch (error) {
      // SQLite rolls back by itself for some errors, such as a full disk.
      if (this.#connection.isTransaction) this.#connection.exec('ROLLBACK')
      throw error
    }
  }

  close(): void {
    if (this.#connection.isOpen) this.#attempt(() => this.#connection.close())
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #prepare(sql: string, values: readonly Value[]): StatementSync {
    let statement = this.#statements.get(sql)
    if (statement === undefined) {
      statement = this.#connection.prepare(sql)
      statement.setReturnArrays(true)
      this.#statements.set(sql, statement)
    }
    for (const value of values) {
      if (value !== null && typeof value !== 'string' && !Number.isSafeInteger(value)) {
        throw new Fault(
          'internal',
          `SQLite was given ${String(value)} as a value; only text and whole numbers are bound`,
        )
      }
    }
    return statement
  }

  #attempt<T>(work: () => T): T {
    try {
      return work()
    } catch (error) {
      throw databaseFault(error, this.path)
    }
  }
}

const SQLITE_BUSY = 5
const SQLITE_IOERR = 10
const SQLITE_CORRUPT = 11
const SQLITE_FULL = 13
const SQLITE_CANTOPEN = 14
const SQLITE_NOTADB = 26
const SQLITE_READONLY = 8

/** A sentence for whoever runs the control plane. The low byte of a code is its kind (https://sqlite.org/rescode.html). */
function databaseFault(error: unknown, path: string): unknown {
  const extended = (error as { errcode?: unknown }).errcode
  if (typeof extended !== 'number') return error
  const message = (error as Error).message
  switch (extended & 0xff) {
    case SQLITE_FULL:
      return new Fault('exhausted', `the disk that holds ${path} is full; free some space, then try again`, {
        cause: error,
      })
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return damaged(path, error)
    case SQLITE_BUSY:
      return new Fault(
        'unavailable',
        `the database ${path} is locked by another program; end that one, then try again`,
        {
          cause: error,
        },
      )
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
      return new Fault(
        'unavailable',
        `the database ${path} cannot be read or written (${message}); look at its disk and permissions, then try again`,
        { cause: error },
      )
    default:
      return new Fault('unavailable', `the database ${path} refused: ${message}`, { cause: error })
  }
}

export function damaged(path: string, cause: unknown): Fault {
  return new Fault(
    'unavailable',
    `the database ${path} is damaged; move it away and restore a backup in its place, ` +
      `or save what is readable with "sqlite3 ${path} .recover"`,
    { cause },
  )
}

export function isBusy(fault: unknown): boolean {
  const code = ((fault as { cause?: unknown }).cause as { errcode?: unknown } | undefined)?.errcode
  return typeof code === 'number' && (code & 0xff) === SQLITE_BUSY
}
