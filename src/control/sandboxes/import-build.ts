import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId, NodeId } from '../../model/ids.ts'
import type { Node } from '../../model/node.ts'
import type { Build } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import type { SandboxAnswer } from '../../wire/sandbox-answers.ts'
import { addAudit, addEvent } from '../marks.ts'
import { askNode } from './ask.ts'
import type { Asked, Desk } from './desk.ts'
import { putBuild } from './rows.ts'
import { checkTag, putTag, type TagName } from './templates.ts'

export interface ImportWish {
  build: BuildId
  /** Only this node is asked; else all that can have sandboxes and are connected. */
  node: NodeId | undefined
  tag: TagName | undefined
}

/**
 * Makes a build known that somebody copied into the stores of nodes: from then on it is as one that was made there. One
 * that is known is then also known to lie there.
 */
export async function importBuild(desk: Desk, { build: id, node, tag }: ImportWish, asked: Asked): Promise<Build> {
  const { control } = desk
  const { view } = control.store
  const wanted = node === undefined ? [...view.all('nodes')].filter(canHaveIt) : [view.get('nodes', node)]
  const nodes = wanted.filter((each) => each !== undefined)
  const found = await Promise.all(nodes.map((each) => adopt(desk, each, id, asked)))
  const there = found.filter((each) => each !== undefined)
  const [first] = there
  if (!first) {
    const where = node === undefined ? 'no node has it' : `node "${nodes[0]?.name}" does not have it`
    throw new Fault('not_found', `build ${id} cannot be imported: ${where}; "tutti build copy" brings it there`)
  }
  const { result } = await control.store.write((tx) => {
    if (tag) checkTag(tx, tag)
    const row = putImported(tx, id, { there, by: asked.by })
    addAudit(tx, { by: asked.by, action: 'build.import', subject: id })
    addEvent(tx, {
      level: 'info',
      kind: 'build.imported',
      build: id,
      node: first.node.id,
      message: `build ${id} was found on ${there.map((each) => `node "${each.node.name}"`).join(', ')}`.slice(0, 2000),
    })
    if (!tag) return row
    putTag(tx, tag, id)
    return tx.get('builds', id) ?? row
  })
  return result
}

interface Found {
  node: Node
  said: SandboxAnswer<'adoptBuild'>
}

function canHaveIt({ phase, facts }: Node): boolean {
  return phase === 'ready' && facts?.drivers.sandbox?.healthy === true
}

/** Nothing when the node does not have it. Of several that are asked, one that cannot answer holds up no other. */
async function adopt(desk: Desk, node: Node, build: BuildId, { signal }: Asked): Promise<Found | undefined> {
  try {
    return { node, said: await askNode(desk.nodes, node.id, { op: 'adoptBuild', build }, { signal }) }
  } catch (error) {
    if (Fault.from(error).code === 'not_found') return undefined
    throw new Fault(
      Fault.from(error).code,
      `build ${build} cannot be imported: node "${node.name}" could not look for it: ${sentence(error)}`,
      { cause: error },
    )
  }
}

function putImported(tx: Tx, id: BuildId, { there, by }: { there: readonly Found[]; by: string }): Build {
  const known = tx.get('builds', id)
  if (known && known.status !== 'ready')
    throw new Fault('conflict', `build ${id} is ${known.status} and cannot be imported; try again when it is gone`)
  const nodes = there.map(({ node }) => node.id)
  if (known) {
    const next = { ...known, nodes: [...new Set([...known.nodes, ...nodes])], changedAt: tx.now }
    tx.put('builds', next)
    return next
  }
  const [{ said, node }] = there as readonly [Found, ...Found[]]
  return putBuild(tx, {
    ...{ id, status: 'ready', nodes, by },
    parent: said.parent,
    // It is somebody's wish that it be here, so it does not go with the sandbox that it was once taken of.
    reason: said.reason === 'template' ? 'template' : 'snapshot',
    machine: said.machine,
    diskMiB: said.diskMiB,
    addedBytes: said.addedBytes,
    store: tx.get('nodes', node.id)?.facts?.drivers.sandbox?.attributes.store ?? '',
    compat: said.compat,
    createdAt: said.createdAt,
  })
}
