import { jobOf, publicRow, type WatchTable } from '../contract/watch.ts'
import type { Control } from '../control/control.ts'
import { EventAnswer, type ServerSentEvent } from '../http/route.ts'
import { Fault } from '../model/fault.ts'
import type { Commit, Store } from '../store/store.ts'
import type { Handlers } from './handlers.ts'

/**
 * "A snapshot, then the changes since": the only way to watch anything. A client that comes back asks for the changes
 * from the index it had; when the log no longer reaches back that far, it must begin with a snapshot again.
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
  const { from = store.index } = watched
  if (from > store.index) throw new Fault('invalid', `index ${from} is in the future; the newest is ${store.index}`)
  if (watched.from === undefined) yield* snapshot(store, watched)
  yield { id: String(from), event: 'snapshot-end', data: { index: from } }
  for await (const commit of store.follow(from, { signal })) yield* changesOf(commit, watched)
}

/** Collected in one synchronous sweep, so it is one consistent view; rows never change, so they are sent at leisure. */
function snapshot(store: Store, { tables, job }: Watched): ServerSentEvent[] {
  const events: ServerSentEvent[] = []
  for (const table of tables) {
    for (const row of store.view.all(table)) {
      if (job !== undefined && ofJob(table, row) !== job) continue
      const shown = show(table, row)
      const key = 'id' in shown ? shown.id : keyOfShown(shown)
      events.push({ event: 'snapshot-row', data: { index: store.index, table, key, row: shown } })
    }
  }
  return events
}

function* changesOf({ index, changes }: Commit, { tables, job }: Watched): Iterable<ServerSentEvent> {
  for (const { table, key, row, before } of changes) {
    if (!(tables as readonly string[]).includes(table)) continue
    const watched = table as WatchTable
    const subject = row ?? before
    // A deleted row that is known by its key only is told to everybody: whoever never had it ignores it.
    if (job !== undefined && subject !== undefined && ofJob(watched, subject) !== job) continue
    const shown = row === undefined ? null : show(watched, row)
    yield { id: String(index), event: 'change', data: { index, table: watched, key, row: shown } }
  }
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
