import { jobOf, publicRow, type WatchTable } from '../contract/watch.ts'
import type { Control } from '../control/control.ts'
import { EventAnswer, type ServerSentEvent } from '../http/route.ts'
import { Fault } from '../model/fault.ts'
import type { Commit, Store } from '../store/store.ts'
import type { Handlers } from './handlers.ts'

/**
 * "A snapshot, then the changes since": the only way to watch anything. A client that asks for changes from an index
 * that the log no longer reaches gets a snapshot instead, and with it is in step again.
 */
export function watchHandlers({ control }: { control: Control }): Pick<Handlers, 'watch'> {
  return { watch: async ({ query, signal }) => new EventAnswer(watch(control.store, query, { signal })) }
}

interface Watched {
  tables: readonly WatchTable[]
  job?: string | undefined
  from?: number | undefined
}

async function* watch(
  store: Store,
  watched: Watched,
  { signal }: { signal: AbortSignal },
): AsyncGenerator<ServerSentEvent> {
  let from = watched.from
  if (from !== undefined && from > store.index)
    throw new Fault('invalid', `index ${from} is in the future; the newest is ${store.index}`)
  while (!signal.aborted) {
    if (from === undefined) {
      from = store.index
      yield* snapshot(store, watched)
    }
    yield { id: String(from), event: 'snapshot-end', data: { index: from } }
    try {
      for await (const commit of store.follow(from, { signal })) {
        const change = changeOf(commit, watched)
        if (change) yield change
      }
      return
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'exhausted') throw error
      from = undefined
    }
  }
}

/** Collected in one synchronous sweep, so it is one consistent view; rows never change, so they are sent at leisure. */
function snapshot(store: Store, { tables, job }: Watched): ServerSentEvent[] {
  const events: ServerSentEvent[] = []
  for (const table of tables) {
    for (const row of store.view.all(table)) {
      if (job !== undefined && ofJob(table, row) !== job) continue
      const shown = show(table, row)
      events.push({
        event: 'snapshot-row',
        data: { table, key: 'id' in shown ? shown.id : keyOfShown(shown), row: shown },
      })
    }
  }
  return events
}

function changeOf(commit: Commit, { tables, job }: Watched): ServerSentEvent | undefined {
  const changes = []
  for (const { table, key, row, before } of commit.changes) {
    if (!(tables as readonly string[]).includes(table)) continue
    const watched = table as WatchTable
    const subject = row ?? before
    // A deleted row that is known by its key only is told to everybody: whoever never had it ignores it.
    if (job !== undefined && subject !== undefined && ofJob(watched, subject) !== job) continue
    changes.push({ table: watched, key, row: row === undefined ? null : show(watched, row) })
  }
  if (changes.length === 0) return undefined
  return { id: String(commit.index), event: 'change', data: { index: commit.index, at: commit.at, changes } }
}

/** The table is known by name only here; each map takes the rows of its own table. */
function show(table: WatchTable, row: object): { id: string } | { name: string } | { job: string; index: number } {
  return publicRow[table](row as never)
}

function ofJob(table: WatchTable, row: object): string | undefined {
  return jobOf[table](row as never)
}

function keyOfShown(row: { name: string } | { job: string; index: number }): string {
  return 'name' in row ? row.name : `${row.job}/${row.index}`
}
