import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Fault } from '../../model/fault.ts'

/**
 * One process at a time writes a content store's directory. The lock is SQLite's, on an empty database that is never
 * written: the system lets go of it when its holder dies, however it dies.
 */
export function lockDirectory(directory: string): Disposable {
  const lock = new DatabaseSync(join(directory, 'lock'))
  try {
    lock.exec('BEGIN EXCLUSIVE')
  } catch (error) {
    lock.close()
    if ((error as { errcode?: number }).errcode !== busy) throw error
    throw new Fault('conflict', `${directory} is in use by another process: a content store has one`, { cause: error })
  }
  return { [Symbol.dispose]: () => lock.close() }
}

/** SQLITE_BUSY, https://www.sqlite.org/rescode.html#busy */
const busy = 5
