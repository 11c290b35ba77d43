import type { TableName, Tables } from '../model/records.ts'

/**
 * The seam to stored state. The log is the truth: a write is appended, made durable, and only then seen by readers,
 * acknowledged and published. Readers see durable state only.
 */
export interface Store {
  /** Durable state, now. Rows are frozen values: never change one, put a new one. */
  readonly view: View
  /** Index of the newest durable commit; 0 for an empty store. */
  readonly index: number
  /**
   * Runs `change` on a transaction that sees all writes before it, durable or on their way; resolves with its result
   * once it is durable. Nothing is written when it throws, nor when it changed nothing. `change` must not wait.
   */
  write<T>(change: (tx: Tx) => T): Promise<Written<T>>
  /**
   * Every commit after index `from`, in order, without a gap; ends with `signal`. Throws a Fault `exhausted` when
   * the log no longer reaches back that far, or when the reader is too slow: take a new snapshot then.
   */
  follow(from: number, options: { signal: AbortSignal }): AsyncIterable<Commit>
  /** Calls back, synchronously and in order, after each commit. Returns the way to stop. */
  subscribe(listener: (commit: Commit) => void): () => void
  close(): Promise<void>
}

export interface Written<T> {
  index: number
  result: T
}

export interface View {
  get<T extends TableName>(table: T, key: string): Tables[T] | undefined
  /** All rows, in no particular order. */
  all<T extends TableName>(table: T): Iterable<Tables[T]>
  count(table: TableName): number
  /** Rows by a derived index; see `store/indexes.ts`. */
  by<I extends IndexName>(index: I, key: string): Iterable<Tables[IndexTables[I]]>
}

export interface Tx extends View {
  /** The one time of this transaction; ms since the epoch. */
  readonly now: number
  put<T extends TableName>(table: T, row: Tables[T]): void
  delete(table: TableName, key: string): void
}

/** Derived indexes: functions of the rows, never stored. */
export interface IndexTables {
  allocationsByNode: 'allocations'
  allocationsByJob: 'allocations'
  liveAllocationsByNode: 'allocations'
  slotsByJob: 'slots'
  versionsByJob: 'jobVersions'
  timersByJob: 'timers'
  eventsByJob: 'events'
  nodesByName: 'nodes'
}
export type IndexName = keyof IndexTables

export interface Commit {
  index: number
  at: number
  changes: readonly Change[]
}

/** One row as it became; `row` is undefined when it was deleted. `before` is what it was. */
export type Change = {
  [T in TableName]: { table: T; key: string; row: Tables[T] | undefined; before: Tables[T] | undefined }
}[TableName]
