import { isLive } from '../model/allocation.ts'
import type { TableName, Tables } from '../model/records.ts'
import type { IndexName, IndexTables } from './store.ts'

/**
 * The derived indexes as data: which table, and under which key a row is found; undefined leaves it out. A key must
 * follow from the row alone, so that an index can always be computed again (`verify.ts` does).
 */
export const indexes: { [I in IndexName]: Index<IndexTables[I]> } = {
  allocationsByNode: { table: 'allocations', key: (allocation) => allocation.node },
  allocationsByJob: { table: 'allocations', key: (allocation) => allocation.job },
  liveAllocationsByNode: {
    table: 'allocations',
    key: (allocation) => (isLive(allocation) ? allocation.node : undefined),
  },
  slotsByJob: { table: 'slots', key: (slot) => slot.job },
  versionsByJob: { table: 'jobVersions', key: (version) => version.job },
  timersByJob: { table: 'timers', key: (timer) => timer.job },
  eventsByJob: { table: 'events', key: (event) => event.job },
  nodesByName: { table: 'nodes', key: (node) => node.name },
}

export interface Index<T extends TableName> {
  table: T
  key: (row: Tables[T]) => string | undefined
}

export const indexNames = Object.keys(indexes) as IndexName[]

/** An index seen from inside, where rows of all tables are alike. */
export interface AnyIndex {
  name: IndexName
  key: (row: object) => string | undefined
}

/** The indexes that a table's rows are in. */
export function indexesOf(table: TableName): readonly AnyIndex[] {
  return byTable.get(table) ?? []
}

// The cast is sound: a row only ever meets the indexes of its own table.
const byTable = Map.groupBy(
  indexNames.map((name) => ({ name, key: indexes[name].key as AnyIndex['key'] })),
  ({ name }): TableName => indexes[name].table,
)
