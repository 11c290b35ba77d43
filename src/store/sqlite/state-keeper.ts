import type { Entry } from '../entry.ts'
import { Checkpoint } from './checkpoint.ts'
import { compactStep } from './compaction.ts'
import type { Database } from './database.ts'
import type { WorkerOptions } from './protocol.ts'
import { openStateFile } from './state-file.ts'
import { StateLog } from './state-log.ts'

/** How much more log may gather while there is no pause in the writing. */
const patience = 8

/** Characters given to a follower at once. */
const maxReadLength = 2 * 1024 * 1024

/** The database while it is open for writing: the log, and behind it the checkpoint and the compaction. */
export class StateKeeper {
  readonly #options: WorkerOptions
  readonly #database: Database
  readonly #log: StateLog
  readonly #checkpoint: Checkpoint
  /** Appended since the last checkpoint was complete. */
  #bytesBehind = 0
  #isFolding = false
  #isResting = false
  #isClosed = false

  constructor(options: WorkerOptions) {
    this.#options = options
    this.#database = openStateFile(options.path)
    this.#log = new StateLog(this.#database, { newest: options.newest })
    this.#checkpoint = new Checkpoint(this.#database, this.#log)
  }

  append(entries: readonly Entry[]): void {
    this.#isResting = false
    this.#log.append(entries)
    for (const { changes } of entries) this.#bytesBehind += changes.length
  }

  read(after: number, limit: number): Entry[] {
    return this.#log.read(after, limit, maxReadLength)
  }

  /** Nobody writes: until the next append is a good time for what is due. */
  rest(): void {
    this.#isResting = true
  }

  /** One short piece of the work behind the log; false when there is nothing to do now. */
  step(): boolean {
    if (this.#isClosed) return false
    this.#isFolding ||= this.#isCheckpointDue(this.#isResting ? 1 : patience)
    if (this.#isFolding) {
      if (this.#checkpoint.step()) return true
      this.#isFolding = false
      this.#bytesBehind = 0
    }
    const { kept } = this.#options
    return compactStep(this.#database, this.#log, { checkpoint: this.#checkpoint.index, kept })
  }

  #isCheckpointDue(patience: number): boolean {
    const { entries, bytes } = this.#options.checkpointAfter
    const entriesBehind = this.#log.newest - this.#checkpoint.index
    return entriesBehind > entries * patience || this.#bytesBehind > bytes * patience
  }

  /** Folds all that is left, so that the next start has only rows to read. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    try {
      while (this.#checkpoint.step()) {}
    } finally {
      this.#database.close()
    }
  }
}
