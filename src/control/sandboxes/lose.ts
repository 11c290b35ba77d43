import type { NodeId } from '../../model/ids.ts'
import { holdsRoom } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { fail } from './rows.ts'

/**
 * The node is gone, or as good as. What ran there is lost. Paused ones wait on its disk, and so do those that were on
 * their way there or back: what became of them is seen when the node is back.
 */
export function loseSandboxes(tx: Tx, node: { id: NodeId; name: string }, how: 'lost' | 'removed'): void {
  for (const row of [...tx.by('sandboxesByNode', node.id)]) {
    const kept = how === 'lost' && (row.phase === 'paused' || row.phase === 'pausing' || row.phase === 'resuming')
    if (!kept) fail(tx, row, `node "${node.name}" was ${how}`)
    else if (holdsRoom(row)) tx.put('sandboxes', { ...row, reason: `node "${node.name}" was lost meanwhile` })
  }
  if (how !== 'removed') return
  for (const build of [...tx.all('builds')]) {
    if (!build.nodes.includes(node.id)) continue
    const nodes = build.nodes.filter((id) => id !== node.id)
    tx.put('builds', { ...build, nodes, changedAt: tx.now })
  }
}
