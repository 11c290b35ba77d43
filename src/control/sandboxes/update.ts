import { sentence } from '../../model/fault.ts'
import type { SandboxId } from '../../model/ids.ts'
import { type Egress, isOver, type Sandbox, type TimeoutAction } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { addAudit } from '../marks.ts'
import { askNode } from './ask.ts'
import type { Desk } from './desk.ts'
import { expiryFrom, get, tell, wrongPhase } from './rows.ts'

/** What may be changed of a sandbox while it lives. */

/** From now on it may run this long; null: for ever. */
export async function setTimeoutOf(
  desk: Desk,
  id: SandboxId,
  { timeoutMs, onTimeout, by }: { timeoutMs: number | null; onTimeout?: TimeoutAction | undefined; by: string },
): Promise<Sandbox> {
  return change(desk, id, { by, action: 'sandbox.timeout' }, (tx, row) => ({
    ...row,
    timeoutMs,
    onTimeout: onTimeout ?? row.onTimeout,
    expiresAt: row.phase === 'paused' ? null : expiryFrom(tx.now, { timeoutMs }),
  }))
}

/** Metadata given as null is removed; the rest stays. */
export async function updateSandbox(
  desk: Desk,
  id: SandboxId,
  {
    metadata = {},
    autoResume,
    by,
  }: { metadata?: Record<string, string | null> | undefined; autoResume?: boolean | undefined; by: string },
): Promise<Sandbox> {
  return change(desk, id, { by, action: 'sandbox.update' }, (_tx, row) => {
    const next = { ...row.metadata }
    for (const [key, value] of Object.entries(metadata)) {
      if (value === null) delete next[key]
      else next[key] = value
    }
    return { ...row, metadata: next, autoResume: autoResume ?? row.autoResume }
  })
}

/** A running one obeys when this resolves; a paused one when it goes on. What its node refuses is as before. */
export async function setEgress(
  desk: Desk,
  id: SandboxId,
  { egress, by }: { egress: Egress; by: string },
): Promise<Sandbox> {
  const { control, nodes, signal } = desk
  const before = get(control.store.view, id)
  const row = await change(desk, id, { by, action: 'sandbox.egress' }, (_tx, current) => ({
    ...current,
    egress,
    egressPending: current.phase !== 'paused',
  }))
  if (row.phase === 'paused') return row
  try {
    await askNode(nodes, row.node, { op: 'egress', id, egress }, { signal })
  } catch (error) {
    if (!signal.aborted) await settle(desk, row, before.egress, sentence(error))
    throw error
  }
  return settle(desk, row, egress)
}

async function settle(desk: Desk, { id, egress: told }: Sandbox, egress: Egress, failure?: string): Promise<Sandbox> {
  const { result } = await desk.control.store.write((tx) => {
    const row = get(tx, id)
    // Somebody has told it something else meanwhile.
    if (row.egress !== told || isOver(row.phase)) return row
    const next: Sandbox = { ...row, egress, egressPending: false, changedAt: tx.now }
    tx.put('sandboxes', next)
    if (failure !== undefined)
      tell(tx, row, 'egress-failed', `what sandbox ${id} may reach stays as it was: ${failure}`, 'warning')
    return next
  })
  return result
}

async function change(
  desk: Desk,
  id: SandboxId,
  audit: { by: string; action: string },
  edit: (tx: Tx, row: Sandbox) => Sandbox,
): Promise<Sandbox> {
  const { result } = await desk.control.store.write((tx) => {
    const row = get(tx, id)
    if (isOver(row.phase)) throw wrongPhase(row, 'changed')
    const next: Sandbox = { ...edit(tx, row), changedAt: tx.now }
    tx.put('sandboxes', next)
    addAudit(tx, { ...audit, subject: id })
    return next
  })
  return result
}
