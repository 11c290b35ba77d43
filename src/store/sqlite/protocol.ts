import type { FaultCode } from '../../model/fault.ts'
import type { Entry } from '../entry.ts'
import type { Kept } from './compaction.ts'

/** What the main thread and the database's thread say to each other. Every request but `rest` has one answer, in order. */
export type Request =
  | { kind: 'append'; entries: readonly Entry[] }
  | { kind: 'read'; after: number; limit: number }
  | { kind: 'close' }
  /** Nobody has written for a while: a good time for the work behind the log. */
  | { kind: 'rest' }

export type Answer =
  | { kind: 'done'; entries: Entry[] }
  | { kind: 'failed'; code: FaultCode; message: string; cause: string }
  /** Not an answer: work behind the log failed and will be tried again later. */
  | { kind: 'trouble'; code: FaultCode; message: string; cause: string }

export interface WorkerOptions {
  path: string
  /** The newest index that was loaded; the log must end there. */
  newest: number
  checkpointAfter: CheckpointAfter
  kept: Kept
}

/**
 * A checkpoint is due when this much log has gathered, whichever limit is reached first. It waits for a pause in the
 * writing, but not beyond eight times as much; then it goes all the way.
 */
export interface CheckpointAfter {
  entries: number
  bytes: number
}
