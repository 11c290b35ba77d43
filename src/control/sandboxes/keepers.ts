import { Fault } from '../../model/fault.ts'
import type { BuildId, NodeId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'
import type { Build } from '../../model/sandbox.ts'
import type { View } from '../../store/store.ts'
import { askNode } from './ask.ts'
import { nodesWith } from './builds.ts'
import type { Asked, Desk } from './desk.ts'

/**
 * Which node has what the sandboxes of another are paused in; null: none has. A build that is not there may be in a
 * shared store, and nobody who would see it there can be asked.
 */
export type Keepers = ReadonlyMap<BuildId, NodeId | null>

/** Builds that are looked for at the same time. */
const atATime = 8

/**
 * Looks for what sandboxes of a node are paused in, or were being paused in, on other nodes: before the node is removed.
 * A node that is asked keeps what it finds.
 */
export async function findKeepers(desk: Desk, from: Node, { signal }: Pick<Asked, 'signal'>): Promise<Keepers> {
  const { view } = desk.control.store
  const keepers = new Map<BuildId, NodeId | null>()
  const wanted = new Set<BuildId>()
  for (const { pausedBuild } of view.by('sandboxesByNode', from.id)) if (pausedBuild) wanted.add(pausedBuild)
  /** Those that failed to answer once are not waited for again. */
  const unwell = new Set<NodeId>()
  const left = [...wanted]
  const work = async () => {
    for (let id = left.pop(); id; id = left.pop()) {
      const build = view.get('builds', id)
      const keeper = build ? await findKeeper(desk, build, { from, unwell, signal }) : null
      if (keeper !== undefined) keepers.set(id, keeper)
    }
  }
  await Promise.all(Array.from({ length: atATime }, work))
  return keepers
}

interface Search {
  from: Node
  unwell: Set<NodeId>
  signal: AbortSignal
}

/** Undefined: it cannot be known. */
async function findKeeper(
  desk: Desk,
  build: Build,
  { from, unwell, signal }: Search,
): Promise<NodeId | null | undefined> {
  const { view } = desk.control.store
  const onDisk = build.nodes.find((id) => id !== from.id && view.get('nodes', id))
  if (onDisk) return onDisk
  const store = storeOf(build, from)
  if (store === '') return null
  for (const node of sharers(view, { ...build, store })) {
    if (node.id === from.id || unwell.has(node.id) || node.phase !== 'ready') continue
    try {
      await askNode(desk.nodes, node.id, { op: 'adoptBuild', build: build.id }, { signal })
      return node.id
    } catch (error) {
      signal.throwIfAborted()
      if (Fault.from(error).code === 'not_found') return null
      unwell.add(node.id)
      desk.control.log.warn({ err: error, node: node.id, build: build.id }, 'a node could not look for a build')
    }
  }
  return undefined
}

/** One that was being made when its node was last heard of may have arrived all the same. */
function storeOf({ status, store }: Build, from: Node): string {
  return status === 'building' ? (from.facts?.drivers.sandbox?.attributes.store ?? '') : store
}

function* sharers(view: View, build: Build): Iterable<Node> {
  for (const id of nodesWith(view, build)) {
    const node = view.get('nodes', id)
    if (node) yield node
  }
}
