import { type TableName, tableNames } from '../model/records.ts'
import type { Change, Commit } from './store.ts'

/** One commit as the log keeps it. */
export interface Entry {
  index: number
  at: number
  /** JSON text; see `encodeChanges`. */
  changes: string
}

/** A change as stored: table, key, and the row or nothing when it was deleted. The table may be one that we do not know. */
export type StoredChange = [table: string, key: string, row?: object]

export function encodeChanges(changes: readonly Change[]): string {
  return JSON.stringify(changes.map(({ table, key, row }) => (row === undefined ? [table, key] : [table, key, row])))
}

export function decodeChanges(text: string): StoredChange[] {
  return JSON.parse(text)
}

/** The commit as readers get it. Rows of tables that this program does not know are left out. */
export function decodeEntry({ index, at, changes }: Entry): Commit {
  const known = decodeChanges(changes).filter(([table]) => isKnownTable(table))
  return {
    index,
    at,
    // The cast is sound as far as the file is ours: what was encoded from a Change is one again.
    changes: known.map(([table, key, row]) => ({ table, key, row, before: undefined }) as Change),
    reread: true,
  }
}

export function isKnownTable(table: string): table is TableName {
  return (tableNames as readonly string[]).includes(table)
}
