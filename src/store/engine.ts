import type { Entry } from './entry.ts'

/**
 * The seam to the medium: a durable log of entries, and a state to start from. An engine knows nothing of views,
 * transactions or indexes; the core (`log-store.ts`) knows nothing of disks. One conformance suite runs on all engines.
 *
 * Checkpoints are the engine's own affair: the state at an index is what the log up to there says, so an engine folds
 * old entries into rows by itself, behind the log, and drops entries that were folded. Rows of tables that it has never
 * heard of are kept like all others: an older program gives back what a newer one wrote.
 *
 * Calls come from one caller: `load` once, first; then `append` one at a time; `read` at any time; `close` once, last.
 */
export interface Engine {
  /**
   * Gives every stored row to `receive`, parsed. A row may come several times, then the last one counts; `undefined`
   * means that it was deleted. Resolves with the index of the newest entry, 0 for an empty store.
   */
  load(receive: (table: string, key: string, row: object | undefined) => void): Promise<{ index: number }>
  /**
   * Resolves when all entries are durable: a power cut loses none of them. Indexes follow the newest one without a gap.
   * When it rejects, none of them is in the log and the next append may bring other entries with the same indexes; a
   * full disk is a Fault `exhausted`, everything else `unavailable`. Only a crash before that next append leaves open
   * whether they were written.
   */
  append(entries: readonly Entry[]): Promise<void>
  /**
   * Entries after index `after`, in order: at most `limit` and fewer when they are large, but at least one when there
   * is any. When the first one is not `after + 1`, the log no longer reaches back that far.
   */
  read(after: number, limit: number): Promise<Entry[]>
  /** Lets go of the medium; what was appended stays. May be called again. */
  close(): Promise<void>
}
