import { Fault } from '../model/fault.ts'
import { keyOf, type TableName, tableNames } from '../model/records.ts'
import { type AnyIndex, indexesOf } from './indexes.ts'
import { LayeredView } from './layered-view.ts'
import type { View } from './store.ts'

/** Computes every derived index again from the rows and throws when the view says anything else. For tests and debugging. */
export function verifyIndexes(view: View): void {
  for (const table of tableNames) {
    const rows = [...view.all(table)]
    if (view.count(table) !== rows.length) {
      wrong(`table ${table} counts ${view.count(table)} rows and has ${rows.length}`)
    }
    verifyKeys(view, table, rows)
    for (const index of indexesOf(table)) verifyIndex(view, index, rows)
  }
}

function verifyKeys(view: View, table: TableName, rows: readonly object[]): void {
  const key = keyOf[table] as (row: object) => string
  for (const row of rows) {
    if (view.get(table, key(row)) !== row) wrong(`table ${table} does not have "${key(row)}" under its key`)
  }
}

function verifyIndex(view: View, index: AnyIndex, rows: readonly object[]): void {
  const expected = Map.groupBy(rows, index.key)
  expected.delete(undefined)
  const keys = new Set([...expected.keys(), ...(view instanceof LayeredView ? view.bucketKeys(index.name) : [])])
  for (const key of keys) {
    if (key === undefined) continue
    const wanted = new Set(expected.get(key))
    const found = [...view.by(index.name, key)]
    if (found.length !== wanted.size || found.some((row) => !wanted.has(row))) {
      wrong(`index ${index.name} has ${found.length} rows under "${key}"; ${wanted.size} belong there`)
    }
  }
}

function wrong(what: string): never {
  throw new Fault('internal', `the derived state of the store is wrong: ${what}`)
}
