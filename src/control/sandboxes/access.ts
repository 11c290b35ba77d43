import type { Duplex } from 'node:stream'
import { Fault } from '../../model/fault.ts'
import type { SandboxId } from '../../model/ids.ts'
import type { Sandbox } from '../../model/sandbox.ts'
import type { SandboxRequest } from '../../wire/sandbox.ts'
import type { SandboxAnswer } from '../../wire/sandbox-answers.ts'
import { askNode } from './ask.ts'
import type { Asked, Desk } from './desk.ts'
import { resumeSandbox } from './resume.ts'
import { get, wrongPhase } from './rows.ts'

/**
 * The way into a sandbox. One that is being created, or on its way to or from a pause, is waited for; a paused one is
 * resumed when it was made so.
 */
export async function reach(desk: Desk, id: SandboxId, asked: Asked): Promise<Sandbox> {
  const { view } = desk.control.store
  let row = get(view, id)
  if (row.phase === 'running') return row
  const busy = desk.busy.get(id)
  if (busy) {
    await busy.done.catch(() => {})
    asked.signal.throwIfAborted()
    row = get(view, id)
    if (row.phase === 'running') return row
  }
  if (row.phase === 'paused' && row.autoResume) return resumeSandbox(desk, id, asked)
  throw wrongPhase(row, 'reached')
}

export async function openIn(
  desk: Desk,
  id: SandboxId,
  service: 'sandboxExec' | 'sandboxAttach' | 'sandboxFile' | 'sandboxForward' | 'sandboxWatch',
  request: object,
  asked: Asked,
): Promise<Duplex> {
  const row = await reach(desk, id, asked)
  return desk.nodes.open(row.node, service, { ...request, id }, { signal: asked.signal })
}

/** What is asked of a guest, as against of its machine. */
type GuestOp = 'metrics' | 'stat' | 'list' | 'mkdir' | 'move' | 'remove' | 'processes' | 'signal' | 'input'

export async function askIn<O extends GuestOp>(
  desk: Desk,
  id: SandboxId,
  op: O,
  request: Omit<Extract<SandboxRequest, { op: O }>, 'id' | 'op'>,
  asked: Asked,
): Promise<SandboxAnswer<O>> {
  const row = await reach(desk, id, asked)
  return askNode<O>(desk.nodes, row.node, { ...request, op, id } as never, { signal: asked.signal })
}

/** What the machine wrote on its console so far; also of one that could not be created, while its node has it. */
export async function readConsole(desk: Desk, id: SandboxId, { signal }: Asked): Promise<string> {
  const row = get(desk.control.store.view, id)
  if (row.phase === 'paused') throw new Fault('conflict', `sandbox ${id} is paused; its console is there when it runs`)
  const { text } = await askNode(desk.nodes, row.node, { op: 'console', id }, { signal })
  return text
}
