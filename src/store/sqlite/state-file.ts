import { chmodSync, closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { Database } from './database.ts'

/** The state directory: `state.db` with SQLite's own files beside it, and the lock. Nobody but its owner may look in. */
export function prepareDirectory(directory: string): { database: string; lock: string; pid: string } {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  chmodSync(directory, 0o700)
  const files = {
    database: join(directory, 'state.db'),
    lock: join(directory, 'state.lock'),
    pid: join(directory, 'state.pid'),
  }
  // SQLite would create them readable for all; the files it adds take the mode of the database.
  for (const path of Object.values(files)) {
    closeSync(openSync(path, 'a', 0o600))
    chmodSync(path, 0o600)
  }
  return files
}

/** A connection that makes each commit durable, on macOS past the drive's own cache as well. */
export function openStateFile(path: string): Database {
  const database = new Database(path)
  try {
    database.exec('PRAGMA journal_mode = WAL')
    database.exec(synchronousFull)
    database.exec('PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1')
    database.exec('PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 2000')
    return database
  } catch (error) {
    database.close()
    throw error
  }
}

export const synchronousFull = 'PRAGMA synchronous = FULL'
/** Commits are kept in order but may be lost in a power cut: for what can be done again. */
export const synchronousNormal = 'PRAGMA synchronous = NORMAL'
