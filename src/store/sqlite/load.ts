import { decodeChanges } from '../entry.ts'
import { type Database, damaged } from './database.ts'

/** The checkpoint's rows, then the log after it: together the newest state. */
export function loadState(
  database: Database,
  receive: (table: string, key: string, row: object | undefined) => void,
): { index: number } {
  for (const [table, key, data] of database.rows<[string, string, string]>('SELECT tbl, key, data FROM rows')) {
    receive(
      table,
      key,
      parse(database, () => JSON.parse(data)),
    )
  }
  let index = checkpointIndex(database)
  const entries = database.rows<[number, string]>('SELECT idx, changes FROM log WHERE idx > ? ORDER BY idx', index)
  for (const [next, changes] of entries) {
    if (next !== index + 1) throw damaged(database.path, new Error(`commit ${index + 1} is missing`))
    for (const [table, key, row] of parse(database, () => decodeChanges(changes))) receive(table, key, row)
    index = next
  }
  return { index }
}

/** Every change up to this one is in `rows`; some of later ones may be as well. */
export function checkpointIndex(database: Database): number {
  const [index] = database.first<[number]>("SELECT value FROM meta WHERE key = 'checkpoint'") ?? [0]
  return index
}

function parse<T>(database: Database, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw damaged(database.path, error)
  }
}
