import type { Entry } from '../entry.ts'
import { Checkpoint } from './checkpoint.ts'
import { compactStep } from './compaction.ts'
import type { Database } from './database.ts'
import type { WorkerOptions } from './protocol.ts'
import { openStateFile } from './state-file.ts'
import { StateLog } from './state-log.ts'

/** The database while it is open for writing: the log, and behind it the checkpoint and the compaction. */
export class StateKeeper {
  readonly #options: WorkerOptions
  readonly #database: Database
  readonly #log: StateLog
  readonly #checkpoint: Checkpoint
  /** Bytes of the log when the last checkpoint was complete; appends since then are the difference. */
  #bytesSince = 0
  #isFolding = false
  #isClosed = false

  constructor(options: WorkerOptions) {
    this.#options = options
    this.#database = openStateFile(options.path)
    this.#log = new StateLog(this.#database, { newest: options.newest })
    this.#checkpoint = new Checkpoint(this.#database, this.#log)
  }

  append(entries: readonly Entry[]): void {
    this.#log.append(entries)
    for (const { changes } of entries) this.#bytesSince += changes.length
  }

  read(after: number, limit: number): Entry[] {
    return this.#log.read(after, limit)
  }

  /** One short piece of the work behind the log; false when there is nothing to do now. */
  step(): boolean {
    if (this.#isClosed) return false
    const { checkpointAfter, kept } = this.#options
    const behind = this.#log.newest - this.#checkpoint.index
    this.#isFolding ||= behind > checkpointAfter.entries || this.#bytesSince > checkpointAfter.bytes
    if (this.#isFolding && this.#checkpoint.step()) return true
    if (this.#isFolding) this.#bytesSince = 0
    this.#isFolding = false
    return compactStep(this.#database, this.#log, { checkpoint: this.#checkpoint.index, kept })
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
