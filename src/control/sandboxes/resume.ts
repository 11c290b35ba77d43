import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import { isOpen, type Node } from '../../model/node.ts'
import { isOver, type Sandbox } from '../../model/sandbox.ts'
import { askOfSandbox, fit } from '../../placement/fit.ts'
import { placeSandbox, type SandboxPlace } from '../../placement/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { addAudit } from '../marks.ts'
import { usedOf } from '../usage.ts'
import { askNode } from './ask.ts'
import { isElsewhere, nodesWith } from './builds.ts'
import { converge, putBack, putResumed } from './converge.ts'
import { reservation } from './create.ts'
import { type Asked, type Busy, type Desk, occupy } from './desk.ts'
import { environmentOf } from './environment.ts'
import { endOnNode } from './kill.ts'
import { enter, get, specOf, tell, wrongPhase } from './rows.ts'
import { startsOf } from './starts.ts'

/**
 * Lets a paused sandbox go on where it stopped; resolves when it answers. Resuming a running one changes nothing, and
 * resumes at the same time are one. When it goes wrong it stays paused, with what it had.
 */
export async function resumeSandbox(desk: Desk, id: SandboxId, asked: Asked): Promise<Sandbox> {
  const { view } = desk.control.store
  const busy = desk.busy.get(id)
  if (busy?.verb === 'resume') return busy.done
  if (busy) await busy.done.catch(() => {})
  // Of several that waited for the same, the first begins and the others join it.
  const again = desk.busy.get(id)
  if (again?.verb === 'resume') return again.done
  const row = get(view, id)
  if (row.phase === 'running') return row
  if (row.phase !== 'paused' || again) throw wrongPhase(row, 'resumed')
  return occupy(desk, id, 'resume', (entry) => resume(desk, row, asked, entry))
}

async function resume(desk: Desk, { id, node: home }: Sandbox, { by }: Asked, busy: Busy): Promise<Sandbox> {
  const { control, nodes, signal } = desk
  const node = whereToGoOn(desk, get(control.store.view, id))
  // Others may wait for this one as well, so it does not end with whoever asked first.
  using _turn = await desk.starts.take(node, startsOf(node), by, signal)
  const { result: row } = await control.store.write((tx) => putResuming(tx, id, node, by))
  const build = row.pausedBuild as BuildId
  try {
    const spec = specOf(row, build, environmentOf(control.store.view, id))
    await askNode(nodes, node.id, { op: 'resume', spec }, { signal })
    const { result } = await control.store.write((tx) => {
      const current = get(tx, id)
      return current.phase === 'resuming' ? putResumed(tx, current) : current
    })
    if (result.phase !== 'running') {
      // It was killed meanwhile, or lies paused elsewhere, where it is to stay.
      if (isOver(result.phase) || result.node !== node.id) void endOnNode(desk, { id, node: node.id })
      throw wrongPhase(result, 'resumed')
    }
    // What it was there is nobody's now; a node that is away is told when it is back.
    if (home !== node.id && isConnected(control.store.view.get('nodes', home))) void endOnNode(desk, { id, node: home })
    return result
  } catch (error) {
    if (!signal.aborted) {
      await giveUp(desk, id, busy, error)
      if (home !== node.id) void endOnNode(desk, { id, node: node.id })
    }
    throw error
  }
}

/**
 * On its own node, which has all of it; on another that shares the store where its build lies, when that one is away, is
 * closed or has no room.
 */
function whereToGoOn(desk: Desk, row: Sandbox): Node {
  const { view } = desk.control.store
  const own = view.get('nodes', row.node)
  if (own && isOpen(own) && !fit(own, usedOf(view, own.id), askOfSandbox(row))) return own
  const elsewhere = anotherNode(desk, row)
  if (elsewhere && 'node' in elsewhere) return elsewhere.node
  if (own && isConnected(own)) return own
  const nobody = elsewhere ? `, and no other node can take it: ${elsewhere.problem}` : ''
  throw new Fault(
    'unavailable',
    own
      ? `sandbox ${row.id} is paused on node "${own.name}", which is not connected now${nobody}; try again when it is`
      : `sandbox ${row.id} is paused, and its node was removed${nobody}`,
  )
}

/** Undefined when its build lies on its own node alone, as far as is known. */
function anotherNode(desk: Desk, row: Sandbox): SandboxPlace | undefined {
  const { store, random } = desk.control
  const build = row.pausedBuild && store.view.get('builds', row.pausedBuild)
  if (!build || !isElsewhere(store.view, row)) return undefined
  return placeSandbox(
    desk.usage,
    {
      machine: build.machine,
      nodes: nodesWith(store.view, build),
      compat: build.compat,
      askOf: (node) => askOfSandbox({ reserved: reservation(node, row.memoryMiB, row.reserved.cpuMHz) }),
      waiting: (node) => desk.starts.load(node.id),
      without: new Set([row.node]),
    },
    Math.floor(random.fraction() * 2 ** 32),
  )
}

function isConnected(node: Node | undefined): boolean {
  return node?.phase === 'ready'
}

function putResuming(tx: Tx, id: SandboxId, { id: nodeId }: Node, by: string): Sandbox {
  const row = get(tx, id)
  if (row.phase !== 'paused' || !row.pausedBuild) throw wrongPhase(row, 'resumed')
  const node = tx.get('nodes', nodeId)
  const reserved = node && nodeId !== row.node ? reservation(node, row.memoryMiB, row.reserved.cpuMHz) : row.reserved
  const moved = { ...row, node: nodeId, reserved }
  const refusal = node && fit(node, usedOf(tx, nodeId), askOfSandbox(moved))
  if (refusal) {
    const { words, short } = refusal
    const amounts = short ? ` (needs ${short.format(short.needs)}, free ${short.format(short.free)})` : ''
    throw new Fault(
      'exhausted',
      `sandbox ${id} cannot go on: its node "${node.name}" ${words[0]}${amounts}; end something there, or pause it`,
    )
  }
  addAudit(tx, { by, action: 'sandbox.resume', subject: id })
  return enter(tx, moved, 'resuming')
}

async function giveUp(desk: Desk, id: SandboxId, { reported }: Busy, error: unknown): Promise<void> {
  await desk.control.store.write((tx) => {
    const row = tx.get('sandboxes', id)
    if (row?.phase !== 'resuming') return
    if (reported && reported.phase !== 'resuming' && reported.phase !== 'paused') {
      converge(tx, row, reported)
      return
    }
    const reason = `it could not go on: ${sentence(error)}`
    tell(tx, putBack(tx, row, reason), 'resume-failed', `sandbox ${id} stays paused: ${reason}`, 'warning')
  })
}
