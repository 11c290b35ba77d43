import { Fault } from '../model/fault.ts'
import type { Engine } from './engine.ts'
import { decodeEntry } from './entry.ts'
import type { RecentCommits } from './recent-commits.ts'
import type { Commit } from './store.ts'

export interface FollowSource {
  readonly index: number
  readonly isClosed: boolean
  readonly recent: RecentCommits
  readonly engine: Pick<Engine, 'read'>
  /** Resolves at the next commit, at the end of the store, or on abort. */
  changed(signal: AbortSignal): Promise<void>
}

/** Entries read from the log at once by a reader that is far behind. */
const readAtOnce = 500

/**
 * Every commit after `from`. The reader pulls, so nothing is buffered for it: it takes from the recent commits, and from
 * the log while it is older than those. Once it has been up to date it may fall at most `maxLag` commits behind, because
 * serving a watcher from disk for ever costs more than its new snapshot.
 */
export async function* follow(
  source: FollowSource,
  { from, maxLag, signal }: { from: number; maxLag: number; signal: AbortSignal },
): AsyncGenerator<Commit> {
  if (from > source.index) throw new Fault('exhausted', `commit ${from} is yet to come; take a new snapshot`)
  let last = from
  let wasUpToDate = false
  while (!signal.aborted) {
    if (source.isClosed) throw new Fault('unavailable', 'the store was closed; follow it again when it is back')
    if (last === source.index) {
      wasUpToDate = true
      await source.changed(signal)
      continue
    }
    if (wasUpToDate && source.index - last > maxLag) throw tooSlow(source.index - last)
    const recent = source.recent.get(last + 1)
    if (recent !== undefined) {
      yield recent
      last = recent.index
      continue
    }
    for await (const commit of readBack(source, last)) {
      if (signal.aborted) return
      if (source.recent.get(commit.index) !== undefined) break // that one says more
      yield commit
      last = commit.index
    }
  }
}

/** At least one commit after `last` from the log. */
async function* readBack({ index, engine }: FollowSource, last: number): AsyncGenerator<Commit> {
  const entries = await engine.read(last, readAtOnce)
  if (entries[0]?.index !== last + 1) {
    throw new Fault('exhausted', `the log no longer reaches back to commit ${last + 1}; take a new snapshot`)
  }
  // What is in the log beyond `index` is durable but not yet published: readers get it when everybody does.
  for (const entry of entries) if (entry.index <= index) yield decodeEntry(entry)
}

function tooSlow(commits: number): Fault {
  return new Fault('exhausted', `the reader fell ${commits} commits behind; take a new snapshot`)
}
