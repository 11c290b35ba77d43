import { isLive } from '../model/allocation.ts'
import type { TableName, Tables } from '../model/records.ts'
import { holdsRoom, isActive, type Sandbox } from '../model/sandbox.ts'
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
  /** Those that are not over. */
  sandboxesByNode: { table: 'sandboxes', key: active((sandbox) => sandbox.node) },
  sandboxesHoldingRoom: { table: 'sandboxes', key: (sandbox) => (holdsRoom(sandbox) ? sandbox.node : undefined) },
  /** By phase. */
  activeSandboxes: { table: 'sandboxes', key: active((sandbox) => sandbox.phase) },
  sandboxesByName: { table: 'sandboxes', key: active((sandbox) => sandbox.name) },
  sandboxesByBuild: { table: 'sandboxes', key: active((sandbox) => sandbox.build) },
  sandboxesByPausedBuild: { table: 'sandboxes', key: active((sandbox) => sandbox.pausedBuild ?? undefined) },
  buildsByTemplate: { table: 'builds', key: (build) => build.template ?? undefined },
  buildsBySandbox: { table: 'builds', key: (build) => build.sandbox ?? undefined },
  buildLogsByBuild: { table: 'buildLogs', key: (log) => log.build },
}

function active(key: (sandbox: Sandbox) => string | undefined): (sandbox: Sandbox) => string | undefined {
  return (sandbox) => (isActive(sandbox) ? key(sandbox) : undefined)
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
