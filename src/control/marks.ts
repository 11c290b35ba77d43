import type { Event } from '../model/records.ts'
import type { Tx } from '../store/store.ts'

/** What actions leave behind for others: jobs that need planning, events for people, an audit trail. */

/** The job needs planning; committed with its cause, so it cannot be forgotten. Marking again only adds a reason. */
export function markDirty(tx: Tx, job: string, reason: string): void {
  const marked = tx.get('dirty', job)
  if (marked?.reasons.includes(reason)) return
  tx.put('dirty', { job, reasons: [...(marked?.reasons ?? []), reason].slice(-8), since: marked?.since ?? tx.now })
}

/** How many ids of a table a transaction has been given: where the search for the next free one begins. */
const given = { events: new WeakMap<Tx, number>(), audit: new WeakMap<Tx, number>() }

/** A free key that sorts by time, and within one millisecond by order of writing. */
function orderedId(tx: Tx, table: keyof typeof given): string {
  const time = tx.now.toString(36).padStart(9, '0')
  let count = given[table].get(tx) ?? 0
  while (tx.get(table, idAt(time, count))) count += 1
  given[table].set(tx, count + 1)
  return idAt(time, count)
}

function idAt(time: string, count: number): string {
  return `${time}${count.toString(36).padStart(4, '0')}`
}

export function addEvent(tx: Tx, event: Omit<Event, 'id' | 'at'> & { at?: number }): void {
  tx.put('events', { ...event, id: orderedId(tx, 'events'), at: event.at ?? tx.now })
}

export interface AuditEntry {
  by: string
  action: string
  subject: string
}

/** Every write asked for through the API is recorded with it, in the same transaction. */
export function addAudit(tx: Tx, entry: AuditEntry): void {
  tx.put('audit', { id: orderedId(tx, 'audit'), at: tx.now, outcome: 'done', ...entry })
}
