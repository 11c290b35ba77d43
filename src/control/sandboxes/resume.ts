import { Fault, sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import type { Sandbox } from '../../model/sandbox.ts'
import { askOfSandbox, fit } from '../../placement/fit.ts'
import type { Tx } from '../../store/store.ts'
import { addAudit } from '../marks.ts'
import { usedOf } from '../usage.ts'
import { askNode } from './ask.ts'
import { converge, putResumed } from './converge.ts'
import { type Asked, type Busy, type Desk, occupy } from './desk.ts'
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

async function resume(desk: Desk, { id, node: nodeId }: Sandbox, { by }: Asked, busy: Busy): Promise<Sandbox> {
  const { control, nodes, signal } = desk
  const node = control.store.view.get('nodes', nodeId)
  if (node?.phase !== 'ready') {
    throw new Fault(
      'unavailable',
      `sandbox ${id} is paused on node "${node?.name ?? nodeId}", which is not connected now; try again when it is`,
    )
  }
  // Others may wait for this one as well, so it does not end with whoever asked first.
  using _turn = await desk.starts.take(node, startsOf(node), by, signal)
  const { result: row } = await control.store.write((tx) => putResuming(tx, id, by))
  const build = row.pausedBuild as BuildId
  try {
    await askNode(nodes, nodeId, { op: 'resume', spec: specOf(row, build) }, { signal })
    const { result } = await control.store.write((tx) => {
      const current = get(tx, id)
      return current.phase === 'resuming' ? putResumed(tx, current) : current
    })
    if (result.phase === 'running') return result
    void endOnNode(desk, result)
    throw wrongPhase(result, 'resumed')
  } catch (error) {
    if (!signal.aborted) await giveUp(desk, id, busy, error)
    throw error
  }
}

function putResuming(tx: Tx, id: SandboxId, by: string): Sandbox {
  const row = get(tx, id)
  if (row.phase !== 'paused' || !row.pausedBuild) throw wrongPhase(row, 'resumed')
  const node = tx.get('nodes', row.node)
  const refusal = node && fit(node, usedOf(tx, row.node), askOfSandbox(row))
  if (refusal) {
    const { words, short } = refusal
    const amounts = short ? ` (needs ${short.format(short.needs)}, free ${short.format(short.free)})` : ''
    throw new Fault(
      'exhausted',
      `sandbox ${id} cannot go on: its node "${node.name}" ${words[0]}${amounts}; end something there, or pause it`,
    )
  }
  addAudit(tx, { by, action: 'sandbox.resume', subject: id })
  return enter(tx, row, 'resuming')
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
    tell(tx, enter(tx, row, 'paused', { reason }), 'resume-failed', `sandbox ${id} stays paused: ${reason}`, 'warning')
  })
}
