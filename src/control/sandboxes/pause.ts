import { sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import type { Sandbox } from '../../model/sandbox.ts'
import type { SandboxReport } from '../../wire/sandbox.ts'
import { newId } from '../control.ts'
import { addAudit } from '../marks.ts'
import { askNode } from './ask.ts'
import { converge, putPaused, putRunningAgain } from './converge.ts'
import { type Busy, type Desk, occupy } from './desk.ts'
import { system } from './kill.ts'
import { enter, get, putBuildOf, wrongPhase } from './rows.ts'

/**
 * Saves a sandbox and ends its VM; resolves when it is safe on its node's disk. Pausing a paused one changes nothing,
 * and pauses at the same time are one. When it goes wrong the sandbox runs on, or is what its node says it is.
 */
export async function pauseSandbox(desk: Desk, id: SandboxId, { by }: { by: string }): Promise<Sandbox> {
  const { view } = desk.control.store
  const busy = desk.busy.get(id)
  if (busy?.verb === 'pause') return busy.done
  if (busy) await busy.done.catch(() => {})
  const row = get(view, id)
  if (row.phase === 'paused') return row
  if (row.phase !== 'running' || desk.busy.has(id)) throw wrongPhase(row, 'paused')
  return occupy(desk, id, 'pause', (entry) => pause(desk, id, by, entry))
}

async function pause(desk: Desk, id: SandboxId, by: string, busy: Busy): Promise<Sandbox> {
  const { control, nodes, signal } = desk
  const build = newId(control) as BuildId
  const { result: row } = await control.store.write((tx) => {
    const current = get(tx, id)
    if (current.phase !== 'running') throw wrongPhase(current, 'paused')
    putBuildOf(tx, { id: build, of: current, reason: 'pause', by })
    if (by !== system) addAudit(tx, { by, action: 'sandbox.pause', subject: id })
    return enter(tx, current, 'pausing', { pausedBuild: build })
  })
  try {
    const saved = await askNode(nodes, row.node, { op: 'pause', id, build }, { signal })
    const { result } = await control.store.write((tx) => {
      const current = get(tx, id)
      if (current.phase !== 'pausing') return current
      return putPaused(tx, current, build, saved)
    })
    if (result.phase !== 'paused') throw wrongPhase(result, 'paused')
    return result
  } catch (error) {
    if (!signal.aborted) await giveUp(desk, id, build, busy.reported, error)
    throw error
  }
}

/** Back to running, and the unfinished build is nothing; unless the node has said meanwhile that it is otherwise. */
async function giveUp(
  desk: Desk,
  id: SandboxId,
  build: BuildId,
  reported: SandboxReport | undefined,
  error: unknown,
): Promise<void> {
  await desk.control.store.write((tx) => {
    const row = tx.get('sandboxes', id)
    if (row?.phase !== 'pausing') return
    if (reported && reported.phase !== 'pausing' && reported.phase !== 'running') {
      converge(tx, row, reported)
      return
    }
    putRunningAgain(tx, row, build, sentence(error))
  })
}
