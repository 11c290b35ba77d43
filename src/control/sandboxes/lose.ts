import type { NodeId } from '../../model/ids.ts'
import { holdsRoom, type Sandbox } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { isElsewhere } from './builds.ts'
import { putBack, putPaused } from './converge.ts'
import type { Keepers } from './keepers.ts'
import { fail } from './rows.ts'

/**
 * The node is away for longer than its lease. What ran there is lost. Paused ones stay paused: they go on when it is
 * back, or on another node that shares the store of their builds. Of one that was being paused it is seen when the node
 * is back what became of it, and so of one that was to go on from that node's disk alone.
 */
export function loseSandboxes(tx: Tx, node: { id: NodeId; name: string }): void {
  const reason = `node "${node.name}" was lost`
  for (const row of [...tx.by('sandboxesByNode', node.id)]) {
    if (row.phase === 'resuming' && isElsewhere(tx, row)) putBack(tx, row, `${reason} before it went on there`)
    else if (row.phase !== 'paused' && row.phase !== 'pausing' && row.phase !== 'resuming') fail(tx, row, reason)
    else if (holdsRoom(row)) tx.put('sandboxes', { ...row, reason: `${reason} meanwhile` })
  }
}

/**
 * The node is gone for good. Sandboxes whose builds others have stay paused, and so do those whose builds may be in a
 * shared store although nobody can be asked; all others have failed.
 */
export function removeSandboxes(tx: Tx, node: { id: NodeId; name: string }, keepers: Keepers): void {
  for (const row of [...tx.by('sandboxesByNode', node.id)]) removeSandbox(tx, row, node, keepers)
  for (const build of [...tx.all('builds')]) {
    const adopter = keepers.get(build.id)
    if (!build.nodes.includes(node.id) && !adopter) continue
    const nodes = new Set(adopter ? [...build.nodes, adopter] : build.nodes)
    nodes.delete(node.id)
    tx.put('builds', { ...build, nodes: [...nodes], changedAt: tx.now })
  }
}

function removeSandbox(tx: Tx, row: Sandbox, node: { id: NodeId; name: string }, keepers: Keepers): void {
  const removed = `node "${node.name}" was removed`
  const build = row.pausedBuild
  const keeper = build ? keepers.get(build) : null
  if (!build || (row.phase !== 'paused' && row.phase !== 'pausing' && row.phase !== 'resuming')) {
    fail(tx, row, removed)
  } else if (row.phase === 'pausing') {
    // Only one that is seen somewhere was finished.
    if (keeper) putPaused(tx, { ...row, node: keeper }, build)
    else fail(tx, row, `${removed} while sandbox ${row.id} was being paused there`)
  } else if (keeper || (keeper === undefined && isElsewhere(tx, row))) {
    if (row.phase === 'resuming')
      putBack(tx, { ...row, node: keeper ?? row.node }, `${removed} before it went on there`)
    else tx.put('sandboxes', { ...row, node: keeper ?? row.node, reason: removed, changedAt: tx.now })
  } else fail(tx, row, `${removed}, and what sandbox ${row.id} was paused in lay only there`)
}
