import type { Commit } from './store.ts'

/** The newest commits, in memory, for readers that are nearly up to date. Bounded by commits and by the rows in them. */
export class RecentCommits {
  readonly #maxCommits: number
  readonly #maxRows: number
  #commits: Commit[] = []
  /** Commits before this place are dropped; the array is cut when half of it is. */
  #head = 0
  #rows = 0

  constructor({ maxCommits, maxRows }: { maxCommits: number; maxRows: number }) {
    this.#maxCommits = maxCommits
    this.#maxRows = maxRows
  }

  /** Index of the oldest commit held; undefined when there is none. */
  get oldest(): number | undefined {
    return this.#commits[this.#head]?.index
  }

  get(index: number): Commit | undefined {
    const oldest = this.oldest
    return oldest === undefined || index < oldest ? undefined : this.#commits[this.#head + index - oldest]
  }

  /** Indexes must follow each other. The newest is held whatever its size. */
  push(commit: Commit): void {
    this.#commits.push(commit)
    this.#rows += commit.changes.length
    while (this.#held > 1 && (this.#held > this.#maxCommits || this.#rows > this.#maxRows)) this.#dropOldest()
    if (this.#head > 1000 && this.#head > this.#held) {
      this.#commits = this.#commits.slice(this.#head)
      this.#head = 0
    }
  }

  get #held(): number {
    return this.#commits.length - this.#head
  }

  #dropOldest(): void {
    this.#rows -= this.#commits[this.#head]?.changes.length ?? 0
    this.#commits[this.#head++] = dropped
  }
}

/** Stands where a commit was, so that its rows can be collected. */
const dropped: Commit = { index: -1, at: 0, changes: [] }
