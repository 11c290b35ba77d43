import { isLive } from '../../model/allocation.ts'
import { Fault } from '../../model/fault.ts'
import type { Node } from '../../model/node.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'
import { findNode } from '../find.ts'
import { addAudit, addEvent, markDirty } from '../marks.ts'
import type { Asked as AskedFor, Desk } from '../sandboxes/desk.ts'
import { findKeepers } from '../sandboxes/keepers.ts'
import { removeSandboxes } from '../sandboxes/lose.ts'

/** What an operator does to a node. Each takes a node's id, name or the beginning of its id. */

interface Asked {
  by: string
}

/** Moves everything off the node. `deadlineMs` from now: what has not moved by then is stopped at once. */
export async function drainNode(
  control: Control,
  node: string,
  { by, deadlineMs }: Asked & { deadlineMs: number | null },
): Promise<Node> {
  return change(control, node, { by, action: 'node.drain' }, (tx, row) => {
    const deadline = deadlineMs === null ? null : tx.now + deadlineMs
    addEvent(tx, {
      level: 'info',
      kind: 'node.draining',
      node: row.id,
      message: `node "${row.name}" is being drained, asked by ${by}`,
    })
    if (deadline !== null) {
      for (const job of jobsOn(tx, row))
        tx.put('timers', { id: `drain/${row.id}/${job}`, at: deadline, job, reason: 'a drain reached its deadline' })
    }
    return { ...row, eligible: false, drain: { since: tx.now, deadline } }
  })
}

/** Ends a drain; the node stays closed to new work until it is made eligible. */
export async function cancelDrain(control: Control, node: string, { by }: Asked): Promise<Node> {
  return change(control, node, { by, action: 'node.drain-cancel' }, (tx, row) => {
    if (!row.drain) return row
    addEvent(tx, {
      level: 'info',
      kind: 'node.drain-cancelled',
      node: row.id,
      message: `the drain of node "${row.name}" was cancelled by ${by}`,
    })
    return { ...row, drain: null }
  })
}

/** Opens the node to new work, ending a drain, or closes it. */
export async function setEligible(
  control: Control,
  node: string,
  { by, eligible }: Asked & { eligible: boolean },
): Promise<Node> {
  return change(control, node, { by, action: eligible ? 'node.enable' : 'node.disable' }, (tx, row) => {
    addEvent(tx, {
      level: 'info',
      kind: eligible ? 'node.enabled' : 'node.disabled',
      node: row.id,
      message: `node "${row.name}" was ${eligible ? 'opened to' : 'closed for'} new work by ${by}`,
    })
    return { ...row, eligible, drain: eligible ? null : row.drain }
  })
}

/** Sets labels, and removes those given as null. */
export async function labelNode(
  control: Control,
  node: string,
  { by, labels }: Asked & { labels: Record<string, string | null> },
): Promise<Node> {
  return change(control, node, { by, action: 'node.label' }, (_tx, row) => {
    const next = { ...row.labels }
    for (const [name, value] of Object.entries(labels)) {
      if (value === null) delete next[name]
      else next[name] = value
    }
    return { ...row, labels: next }
  })
}

/**
 * Removes a node that will not come back; its certificate is worthless from then on. What is paused there, and lies in a
 * store that other nodes share, stays paused, so these are asked first.
 */
export async function forgetNode(desk: Desk, node: string, { by, signal }: AskedFor): Promise<void> {
  const { control } = desk
  const found = findNode(control.store.view, node)
  refuseConnected(found)
  const keepers = await findKeepers(desk, found, { signal })
  await control.store.write((tx) => {
    const row = findNode(tx, found.id)
    refuseConnected(row)
    for (const allocation of [...tx.by('allocationsByNode', row.id)]) {
      if (!isLive(allocation)) continue
      tx.put('allocations', {
        ...allocation,
        phase: 'lost',
        healthy: false,
        message: `node "${row.name}" was removed`,
        changedAt: tx.now,
      })
      markDirty(tx, allocation.job, 'a node was removed')
    }
    removeSandboxes(tx, row, keepers)
    tx.delete('nodes', row.id)
    addEvent(tx, { level: 'warning', kind: 'node.removed', message: `node "${row.name}" was removed by ${by}` })
    addAudit(tx, { by, action: 'node.remove', subject: row.name })
  })
}

function refuseConnected({ name, phase }: Node): void {
  if (phase === 'ready' || phase === 'returning')
    throw new Fault('conflict', `node "${name}" is connected; stop its agent first`)
}

async function change(
  control: Control,
  name: string,
  audit: { by: string; action: string },
  edit: (tx: Tx, row: Node) => Node,
): Promise<Node> {
  const { result } = await control.store.write((tx) => {
    const row = findNode(tx, name)
    const next = edit(tx, row)
    if (next === row) return row
    tx.put('nodes', next)
    for (const job of jobsOn(tx, row)) markDirty(tx, job, 'its node changed')
    addAudit(tx, { ...audit, subject: row.name })
    return next
  })
  return result
}

function jobsOn(tx: Tx, node: Node): Set<string> {
  const jobs = new Set<string>()
  for (const allocation of tx.by('liveAllocationsByNode', node.id)) jobs.add(allocation.job)
  return jobs
}
