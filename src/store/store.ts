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
   * once it is durable, and so is all that it saw. Nothing is written when it throws, nor when it changed nothing.
   * `change` must not wait, nor write to the store itself. Rejects with a Fault `unavailable`, or `exhausted` when the
   * disk is full, if it could not be made durable; nobody but later writers, which fail too, has seen it then.
   */
  write<T>(change: (tx: Tx) => T): Promise<Written<T>>
  /**
   * Every commit after index `from`, in order, without a gap; ends with `signal`. Throws a Fault `exhausted` when
   * the log no longer reaches back that far, when the reader is too slow, or when `from` is yet to come (the store was
   * restored): take a new snapshot then. Throws `unavailable` when the store is closed first.
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

/** What is returned is a snapshot: it stays as it is while rows are put or the caller waits. */
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
  /** The row must be plain JSON data. Putting back the very object that is there changes nothing. */
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
  sandboxesByNode: 'sandboxes'
  sandboxesHoldingRoom: 'sandboxes'
  activeSandboxes: 'sandboxes'
  sandboxesByName: 'sandboxes'
  sandboxesByBuild: 'sandboxes'
  sandboxesByPausedBuild: 'sandboxes'
  buildsByTemplate: 'builds'
  buildsBySandbox: 'builds'
  buildLogsByBuild: 'buildLogs'
}
export type IndexName = keyof IndexTables

export interface Commit {
  index: number
  at: number
  /** At most one for each row; in no particular order. */
  changes: readonly Change[]
  /** Set when it was read back from the log, as `follow` does for a reader far behind: then no `before` is known. */
  reread?: true
}

/**
 * One row as it became; `row` is undefined when it was deleted. `before` is what it was, undefined when it is new; but
 * in a commit that was `reread` it is always undefined, and says nothing.
 */
export type Change = {
  [T in TableName]: { table: T; key: string; row: Tables[T] | undefined; before: Tables[T] | undefined }
}[TableName]
