import { Fault } from '../../model/fault.ts'
import type { NodeId, SandboxId } from '../../model/ids.ts'
import { isOver, type Sandbox } from '../../model/sandbox.ts'
import { addAudit } from '../marks.ts'
import { askNode } from './ask.ts'
import type { Desk } from './desk.ts'
import { enter, failBuild, get, tell } from './rows.ts'

/** Tries to end something on its node while the session lives; after that the next session's report settles it. */
const endTries = 5
const endPauseMs = 500

/** Ends a sandbox for good. Killing one that is over changes nothing. Waits for its node, if that is connected. */
export async function killSandbox(
  desk: Desk,
  id: SandboxId,
  { by, reason }: { by: string; reason?: string },
): Promise<Sandbox> {
  const { result } = await desk.control.store.write((tx) => {
    const row = get(tx, id)
    if (isOver(row.phase)) return { row, killed: false }
    if (row.phase === 'pausing' && row.pausedBuild) failBuild(tx, row.pausedBuild, 'the sandbox was killed', 'conflict')
    const why = reason ?? `killed by ${by}`
    tell(tx, row, 'killed', `sandbox ${id} was killed: ${why}`)
    if (by !== system) addAudit(tx, { by, action: 'sandbox.kill', subject: id })
    return { row: enter(tx, row, 'killed', { reason: why }), killed: true }
  })
  if (result.killed) await endOnNode(desk, result.row)
  return result.row
}

/** By which the control plane signs what nobody asked for. */
export const system = 'tutti'

/** What nobody wants any more ends on its node. Never rejects: what cannot be reached now is settled when it comes back. */
export async function endOnNode(desk: Desk, { id, node }: { id: SandboxId; node: NodeId }): Promise<void> {
  const { nodes, signal, control } = desk
  for (let tries = 1; tries <= endTries && !signal.aborted; tries += 1) {
    try {
      await askNode(nodes, node, { op: 'kill', id }, { signal })
      return
    } catch (error) {
      const { code } = Fault.from(error)
      if (code === 'not_found') return
      const connected = control.store.view.get('nodes', node)?.phase === 'ready'
      if (!connected || tries === endTries) {
        control.log.info({ err: error, node, sandbox: id }, 'a sandbox could not be ended yet')
        return
      }
      await control.clock.sleep(endPauseMs * tries, { signal }).catch(() => {})
    }
  }
}
