import { isLive } from '../model/allocation.ts'
import type { NodeId } from '../model/ids.ts'
import { isOpen } from '../model/node.ts'
import { versionKey } from '../model/records.ts'
import { holdsRoom } from '../model/sandbox.ts'
import { askOfSandbox, type NodeUsed, usageOf } from '../placement/fit.ts'
import { Usage } from '../placement/usage.ts'
import type { Change, View } from '../store/store.ts'
import type { Control } from './control.ts'

/** Who uses what, worked out from stored state. */
export function currentUsage({ store }: Pick<Control, 'store'>): Usage {
  const usage = new Usage()
  const { view } = store
  for (const node of view.all('nodes')) usage.setNode(node)
  for (const allocation of view.all('allocations')) {
    if (!isLive(allocation)) continue
    const spec = view.get('jobVersions', versionKey(allocation.job, allocation.version))?.spec
    if (spec) usage.add(allocation, spec)
  }
  for (const sandbox of view.all('sandboxes'))
    if (holdsRoom(sandbox)) usage.hold(sandbox.id, sandbox.node, askOfSandbox(sandbox))
  return usage
}

/** Keeps it in step with what became durable. `freed`: there may be room now where there was none. */
export function noteUsage(usage: Usage, view: View, change: Change): 'freed' | undefined {
  if (change.table === 'nodes') {
    if (change.row) usage.setNode(change.row)
    else if (change.before) usage.removeNode(change.before.id)
    return change.row && isOpen(change.row) ? 'freed' : undefined
  }
  if (change.table === 'sandboxes') {
    const { key, row, before } = change
    if (row && holdsRoom(row)) {
      if (!before || !holdsRoom(before)) usage.hold(key, row.node, askOfSandbox(row))
      return undefined
    }
    usage.remove({ id: key })
    return before && holdsRoom(before) ? 'freed' : undefined
  }
  if (change.table !== 'allocations') return undefined
  const { row, before } = change
  if (row && isLive(row)) {
    const spec = view.get('jobVersions', versionKey(row.job, row.version))?.spec
    if (spec && before?.version !== row.version) usage.add(row, spec)
    return undefined
  }
  if (!before || !isLive(before)) return undefined
  usage.remove(before)
  return 'freed'
}

/** What is held on one node, as a transaction sees it: added up anew, so only for the node that is about to take more. */
export function usedOf(tx: View, node: NodeId): NodeUsed {
  return usageOf(
    tx.by('liveAllocationsByNode', node),
    (job, version) => tx.get('jobVersions', versionKey(job, version))?.spec,
    tx.by('sandboxesHoldingRoom', node),
  )
}
