import { isLive } from '../../model/allocation.ts'
import { Fault } from '../../model/fault.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Node, NodeFacts, NodePhase } from '../../model/node.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'
import { addEvent, markDirty } from '../marks.ts'
import { loseSandboxes } from '../sandboxes/lose.ts'

/**
 * What the control plane thinks of a node's connection:
 *
 *   joined ─hello─▶ ready ─session ends─▶ silent ─lease runs out─▶ lost
 *                     ▲                     │                       │
 *                     ├──────hello──────────┘                       │
 *                     └──in step── returning ◀───────hello──────────┘
 */

/** A further apart clock is worth a warning: certificates and times in logs will not agree. */
const clockToleranceMs = 30_000

/** A session begins: the node's epoch rises, and with it everything an older session may still say becomes stale. */
export async function beginSession(
  control: Control,
  id: NodeId,
  hello: { facts: NodeFacts; now: number; keyFingerprint: string },
): Promise<Node> {
  const { result } = await control.store.write((tx) => {
    const node = tx.get('nodes', id)
    if (!node) throw new Fault('denied', 'this node was removed from the cluster; join it again with a new token')
    if (hello.keyFingerprint !== node.keyFingerprint && hello.keyFingerprint !== node.nextKeyFingerprint) {
      throw new Fault('denied', `the certificate of node "${node.name}" has been replaced; join again with a new token`)
    }
    const phase: NodePhase = node.phase === 'lost' || node.phase === 'returning' ? 'returning' : 'ready'
    const { nextKeyFingerprint: _used, ...kept } = node
    const base = hello.keyFingerprint === node.keyFingerprint ? node : kept
    const next: Node = {
      ...base,
      keyFingerprint: hello.keyFingerprint,
      phase,
      facts: hello.facts,
      epoch: node.epoch + 1,
      since: tx.now,
    }
    tx.put('nodes', next)
    if (node.phase !== 'silent' && node.phase !== 'ready') {
      addEvent(tx, { level: 'info', kind: 'node.connected', node: id, message: `node "${node.name}" connected` })
    }
    const skewMs = hello.now - tx.now
    if (Math.abs(skewMs) > clockToleranceMs) {
      addEvent(tx, {
        level: 'warning',
        kind: 'node.clock',
        node: id,
        message: `the clock of node "${node.name}" is ${Math.round(Math.abs(skewMs) / 1000)} s ${skewMs > 0 ? 'ahead' : 'behind'}; set it by NTP`,
      })
    }
    return next
  })
  return result
}

/** The agent has taken in its whole assignment set: a returning node may get new work. */
export async function markInStep(control: Control, id: NodeId, epoch: number): Promise<void> {
  await control.store.write((tx) => {
    const node = tx.get('nodes', id)
    if (!node || node.epoch !== epoch || node.phase !== 'returning') return
    tx.put('nodes', { ...node, phase: 'ready', since: tx.now })
    addEvent(tx, { level: 'info', kind: 'node.returned', node: id, message: `node "${node.name}" is back` })
  })
}

export async function updateFacts(control: Control, id: NodeId, epoch: number, facts: NodeFacts): Promise<void> {
  await control.store.write((tx) => {
    const node = tx.get('nodes', id)
    if (!node || node.epoch !== epoch) return
    tx.put('nodes', { ...node, facts })
    for (const job of jobsOf(tx, id)) markDirty(tx, job, 'its node changed')
  })
}

/** The session is over; its workloads go on, and the lease, which runs since it was last heard, decides over the node. */
export async function endSession(
  control: Control,
  id: NodeId,
  epoch: number,
  { heardAgoMs = 0 }: { heardAgoMs?: number } = {},
): Promise<void> {
  await control.store.write((tx) => {
    const node = tx.get('nodes', id)
    if (!node || node.epoch !== epoch) return
    if (node.phase === 'ready') tx.put('nodes', { ...node, phase: 'silent', since: Math.floor(tx.now - heardAgoMs) })
    else if (node.phase === 'returning') putLost(tx, node)
  })
}

/** It had been lost before and is again: its jobs are replaced already. */
function putLost(tx: Tx, node: Node): void {
  tx.put('nodes', { ...node, phase: 'lost', since: tx.now })
  loseSandboxes(tx, node)
}

/** After a start nobody is connected yet: every node gets a whole lease to come back in. */
export async function silenceAll(control: Control): Promise<void> {
  await control.store.write((tx) => {
    for (const node of [...tx.all('nodes')]) {
      if (node.phase === 'ready' || node.phase === 'silent')
        tx.put('nodes', { ...node, phase: 'silent', since: tx.now })
      else if (node.phase === 'returning') putLost(tx, node)
    }
  })
}

/** The lease ran out: what ran there counts as lost, and its jobs are planned anew. */
export async function loseNode(control: Control, id: NodeId, silentSince: number): Promise<void> {
  await control.store.write((tx) => {
    const node = tx.get('nodes', id)
    if (node?.phase !== 'silent' || node.since !== silentSince) return
    tx.put('nodes', { ...node, phase: 'lost', since: tx.now })
    addEvent(tx, {
      level: 'error',
      kind: 'node.lost',
      node: id,
      message: `node "${node.name}" was not heard of for its lease and counts as lost`,
    })
    loseSandboxes(tx, node)
    for (const allocation of [...tx.by('liveAllocationsByNode', id)]) {
      if (!isLive(allocation)) continue
      tx.put('allocations', {
        ...allocation,
        phase: 'lost',
        healthy: false,
        message: `node "${node.name}" was lost`,
        changedAt: tx.now,
      })
      markDirty(tx, allocation.job, `node "${node.name}" was lost`)
    }
  })
}

function jobsOf(tx: Tx, id: NodeId): Set<string> {
  const jobs = new Set<string>()
  for (const allocation of tx.by('liveAllocationsByNode', id)) jobs.add(allocation.job)
  return jobs
}
