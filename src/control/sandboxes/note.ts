import type { NodeId, SandboxId } from '../../model/ids.ts'
import { isOver, type Sandbox } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import type { SandboxesMessage } from '../../wire/sandbox.ts'
import { addEvent } from '../marks.ts'
import { askNode } from './ask.ts'
import { isElsewhere } from './builds.ts'
import { converge, putBack } from './converge.ts'
import type { Desk } from './desk.ts'
import { endOnNode } from './kill.ts'
import { fail } from './rows.ts'

export interface SandboxNews extends Omit<SandboxesMessage, 'type'> {
  node: NodeId
  /** Of the session that brought it. */
  epoch: number
}

/**
 * Takes in what a node says of its sandboxes. What it has and nobody wants is ended; what is wanted and gone has
 * failed; what was half done when this control plane or the connection died becomes what the node says it is. A
 * sandbox that something is being done to right now is left to whoever does it.
 */
export async function noteSandboxes(desk: Desk, news: SandboxNews): Promise<void> {
  const { control, busy } = desk
  if (news.measures) desk.measures.set(news.node, news.measures)
  if (!news.full && news.sandboxes.length === 0 && news.denials.length === 0) return
  for (const report of news.sandboxes) {
    const entry = busy.get(report.id)
    if (entry) entry.reported = report
  }
  const { result } = await control.store.write((tx) => {
    const node = tx.get('nodes', news.node)
    const unwanted: SandboxId[] = []
    const unconfirmed: Sandbox[] = []
    if (!node || node.epoch !== news.epoch) return { unwanted, unconfirmed }
    for (const report of news.sandboxes) {
      const row = tx.get('sandboxes', report.id)
      if (!row || row.node !== news.node || isOver(row.phase)) {
        if (!isOver(report.phase) && !busy.has(report.id)) unwanted.push(report.id)
        continue
      }
      if (isOver(report.phase) || !busy.has(row.id)) converge(tx, row, report)
    }
    if (news.full) {
      const there = new Set(news.sandboxes.map(({ id }) => id))
      for (const row of [...tx.by('sandboxesByNode', news.node)]) {
        // What was asked for in this very session is younger than the report that opened it.
        if (busy.has(row.id) || row.epoch === news.epoch) continue
        if (!there.has(row.id)) lose(tx, row, node.name)
        else if (row.egressPending) unconfirmed.push(row)
      }
    }
    for (const { id, at, destination, reason } of news.denials) {
      if (tx.get('sandboxes', id)?.node !== news.node) continue
      const message = `${destination} was denied: ${reason}`
      addEvent(tx, { at, level: 'warning', kind: 'sandbox.egress-denied', sandbox: id, node: news.node, message })
    }
    return { unwanted, unconfirmed }
  })
  for (const id of result.unwanted) void endOnNode(desk, { id, node: news.node })
  for (const row of result.unconfirmed) void confirmEgress(desk, row)
}

/** One that is paused elsewhere as well is paused as before; so is one that was to go on here. */
function lose(tx: Tx, row: Sandbox, node: string): void {
  const reason = `node "${node}" does not have it any more`
  if (row.phase !== 'pausing' && isElsewhere(tx, row)) {
    if (row.phase === 'resuming') putBack(tx, row, reason)
  } else fail(tx, row, reason)
}

/** A policy that its node may not have heard of is told again. */
async function confirmEgress(desk: Desk, row: Sandbox): Promise<void> {
  const { control, nodes, signal } = desk
  try {
    await askNode(nodes, row.node, { op: 'egress', id: row.id, egress: row.egress }, { signal })
    await control.store.write((tx) => {
      const current = tx.get('sandboxes', row.id)
      if (current?.egress === row.egress) tx.put('sandboxes', { ...current, egressPending: false })
    })
  } catch (error) {
    control.log.warn({ err: error, sandbox: row.id }, 'what a sandbox may reach could not be told to its node')
  }
}
