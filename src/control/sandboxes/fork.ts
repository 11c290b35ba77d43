import { Fault, type FaultCode, sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import { buildFailureOf, isOver, type Sandbox } from '../../model/sandbox.ts'
import { askOfSandbox, fit, withSandbox } from '../../placement/fit.ts'
import type { Tx } from '../../store/store.ts'
import type { ForkAnswer } from '../../wire/sandbox-answers.ts'
import { newId } from '../control.ts'
import { addAudit } from '../marks.ts'
import { usedOf } from '../usage.ts'
import { askNode } from './ask.ts'
import { type Asked, type Desk, occupy } from './desk.ts'
import { environmentOf, putEnvironment } from './environment.ts'
import { endOnNode } from './kill.ts'
import {
  deleteRow,
  enter,
  expiryFrom,
  failBuild,
  finishBuild,
  get,
  putBuildOf,
  specOf,
  tell,
  wrongPhase,
} from './rows.ts'
import { startsOf } from './starts.ts'

export interface ForkWish {
  count: number
  metadata?: Record<string, string> | undefined
  /** Over those of the source. */
  env: Record<string, string>
  timeoutMs?: number | null | undefined
}

/** One that answers, or why it does not. */
export type Forked = { sandbox: Sandbox } | { fault: { code: FaultCode; message: string } }

/**
 * Makes copies of a running sandbox, which goes on. One snapshot is taken; then each copy answers for itself, so that
 * some may be there while others are not. Rejects when none could be made.
 */
export async function forkSandbox(desk: Desk, id: SandboxId, wish: ForkWish, asked: Asked): Promise<Forked[]> {
  await desk.busy.get(id)?.done.catch(() => {})
  const source = get(desk.control.store.view, id)
  if (source.phase !== 'running' || desk.busy.has(id)) throw wrongPhase(source, 'forked')
  let forked: Forked[] = []
  await occupy(desk, id, 'fork', async () => {
    const node = desk.control.store.view.get('nodes', source.node)
    if (!node) throw new Fault('unavailable', `the node of sandbox ${id} is gone`)
    using _turn = await desk.starts.take(node, startsOf(node), asked.by, asked.signal)
    forked = await fork(desk, id, wish, asked)
    return get(desk.control.store.view, id)
  })
  return forked
}

async function fork(desk: Desk, id: SandboxId, wish: ForkWish, { by }: Asked): Promise<Forked[]> {
  const { control, nodes, signal } = desk
  const build = newId(control) as BuildId
  const ids = Array.from({ length: wish.count }, () => newId(control) as SandboxId)
  const gates = ids.map((child) => {
    const over = Promise.withResolvers<Sandbox>()
    void occupy(desk, child, 'create', () => over.promise)
    return over
  })
  const release = () => {
    for (const [at, gate] of gates.entries()) {
      const row = control.store.view.get('sandboxes', ids[at] as SandboxId)
      if (row) gate.resolve(row)
      else gate.reject(new Fault('not_found', 'the fork did not come to be'))
    }
  }
  try {
    const { result } = await control.store.write((tx) => putForks(tx, id, build, ids, wish, by))
    const { view } = control.store
    const children = result.children.map((child) => specOf(child, build, environmentOf(view, child.id)))
    try {
      const answer = await askNode(nodes, result.source.node, { op: 'fork', id, build, children }, { signal })
      return await conclude(desk, result.source, build, ids, answer)
    } catch (error) {
      if (!signal.aborted) await withdraw(desk, result.children, build, error)
      throw error
    }
  } finally {
    release()
  }
}

function putForks(
  tx: Tx,
  id: SandboxId,
  build: BuildId,
  ids: readonly SandboxId[],
  wish: ForkWish,
  by: string,
): { source: Sandbox; children: Sandbox[] } {
  const source = get(tx, id)
  if (source.phase !== 'running') throw wrongPhase(source, 'forked')
  const node = tx.get('nodes', source.node)
  if (!node) throw new Fault('unavailable', `the node of sandbox ${id} is gone`)
  putBuildOf(tx, { id: build, of: source, reason: 'fork', by })
  const used = usedOf(tx, source.node)
  const { reason: _past, name: _own, ...inherited } = source
  const timeoutMs = wish.timeoutMs === undefined ? source.timeoutMs : wish.timeoutMs
  const env = { ...environmentOf(tx, id), ...wish.env }
  const children = ids.map((child, at): Sandbox => {
    const refusal = fit(node, used, askOfSandbox(source))
    if (refusal) {
      const { words, short } = refusal
      const amounts = short ? ` (each needs ${short.format(short.needs)})` : ''
      throw new Fault(
        'exhausted',
        `node "${node.name}" has room for ${at} of ${ids.length} forks: it ${words[0]}${amounts}; fork less, or end something there`,
      )
    }
    withSandbox(used, source)
    const row: Sandbox = {
      ...inherited,
      id: child,
      phase: 'creating',
      epoch: node.epoch,
      build,
      parent: id,
      metadata: wish.metadata ?? source.metadata,
      timeoutMs,
      expiresAt: expiryFrom(tx.now, { timeoutMs }),
      egressPending: false,
      pausedBuild: null,
      createdAt: tx.now,
      changedAt: tx.now,
      by,
    }
    tx.put('sandboxes', row)
    putEnvironment(tx, child, env)
    return row
  })
  addAudit(tx, { by, action: 'sandbox.fork', subject: `${id} ×${ids.length}` })
  return { source, children }
}

async function conclude(
  desk: Desk,
  source: Sandbox,
  build: BuildId,
  ids: readonly SandboxId[],
  { children }: ForkAnswer,
): Promise<Forked[]> {
  const said = new Map(children.map((child) => [child.id, child.fault]))
  const { result } = await desk.control.store.write((tx) => {
    finishBuild(tx, build, source.node)
    let made = 0
    const forked = ids.map((id): Forked => {
      const row = tx.get('sandboxes', id)
      const fault = said.has(id) ? said.get(id) : { code: 'internal' as const, message: 'its node does not say why' }
      if (row?.phase === 'creating' && !fault) {
        made += 1
        return { sandbox: enter(tx, row, 'running', { expiresAt: expiryFrom(tx.now, row) }) }
      }
      if (row?.phase === 'creating') deleteRow(tx, id)
      return { fault: fault ?? { code: 'conflict', message: `fork ${id} was killed while it was made` } }
    })
    const faults = forked.flatMap((each) => ('fault' in each ? [each.fault.message] : []))
    if (made > 0) tell(tx, source, 'forked', `sandbox ${source.id} was forked ${made} ${made === 1 ? 'time' : 'times'}`)
    if (faults[0] !== undefined) {
      const words = `${faults.length} of ${ids.length} forks of sandbox ${source.id} could not be made: ${faults[0]}`
      tell(tx, source, 'fork-failed', words, 'warning')
    }
    return forked
  })
  for (const [at, each] of result.entries())
    if ('fault' in each) void endOnNode(desk, { id: ids[at] as SandboxId, node: source.node })
  const [first] = result
  if (first && 'fault' in first && result.every((each) => 'fault' in each))
    throw new Fault(first.fault.code, first.fault.message)
  return result
}

async function withdraw(desk: Desk, children: readonly Sandbox[], build: BuildId, error: unknown): Promise<void> {
  await desk.control.store.write((tx) => {
    failBuild(tx, build, sentence(error), buildFailureOf(error))
    for (const child of children) {
      const row = tx.get('sandboxes', child.id)
      if (row && !isOver(row.phase)) deleteRow(tx, child.id)
    }
    const [first] = children
    const source = first?.parent && tx.get('sandboxes', first.parent)
    if (source)
      tell(tx, source, 'fork-failed', `sandbox ${source.id} could not be forked: ${sentence(error)}`, 'warning')
  })
  for (const child of children) void endOnNode(desk, child)
}
