import { Fault } from '../../model/fault.ts'
import type { BuildId, NodeId, SandboxId } from '../../model/ids.ts'
import {
  type Build,
  type BuildFailure,
  type BuildReason,
  holdsRoom,
  isOver,
  nextPhases,
  type Sandbox,
  type SandboxPhase,
  type SandboxSpec,
} from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import { addEvent } from '../marks.ts'
import { dropEnvironment } from './environment.ts'

/** The only way in which a phase changes. A change that the table does not know is a bug of ours, not of a user. */
export function enter(tx: Tx, row: Sandbox, phase: SandboxPhase, more: Partial<Sandbox> = {}): Sandbox {
  if (!nextPhases[row.phase].includes(phase))
    throw new Fault('internal', `a sandbox cannot go from ${row.phase} to ${phase}`)
  const { reason: _past, ...kept } = row
  const next: Sandbox = { ...kept, phase, changedAt: tx.now, epoch: epochOf(tx, row.node), ...more }
  if (isOver(phase) || !holdsRoom(next)) next.expiresAt = null
  if (isOver(phase)) dropEnvironment(tx, row.id)
  tx.put('sandboxes', next)
  return next
}

/** Of one that did not come to be nothing stays. */
export function deleteRow(tx: Tx, id: SandboxId): void {
  tx.delete('sandboxes', id)
  dropEnvironment(tx, id)
}

export function epochOf(tx: Tx, node: NodeId): number {
  return tx.get('nodes', node)?.epoch ?? 0
}

/** How it may run from now on. */
export function expiryFrom(now: number, { timeoutMs }: Pick<Sandbox, 'timeoutMs'>): number | null {
  return timeoutMs === null ? null : now + timeoutMs
}

/** What its node is told of it. */
export function specOf(row: Sandbox, build: BuildId, env: Record<string, string>): SandboxSpec {
  return {
    id: row.id,
    build,
    env,
    hostname: row.name ?? row.id,
    egress: row.egress,
    ...(row.user === undefined ? {} : { user: row.user }),
    ...(row.cwd === undefined ? {} : { cwd: row.cwd }),
  }
}

/** The only place where a build's row is made; what is not given is not known yet. */
export function putBuild(tx: Tx, given: Partial<Build> & Pick<Build, 'id' | 'reason' | 'nodes' | 'by'>): Build {
  const build: Build = {
    template: null,
    parent: null,
    status: 'building',
    sandbox: null,
    machine: null,
    diskMiB: null,
    addedBytes: null,
    store: '',
    compat: '',
    steps: 0,
    createdAt: tx.now,
    changedAt: tx.now,
    ...given,
  }
  tx.put('builds', build)
  return build
}

/** A build that is being made of a sandbox. */
export function putBuildOf(
  tx: Tx,
  { id, of, reason, by }: { id: BuildId; of: Sandbox; reason: BuildReason; by: string },
): Build {
  const parent = tx.get('builds', of.build)
  const { machine = null, diskMiB = null, compat = '' } = parent ?? {}
  return putBuild(tx, {
    ...{ id, reason, by, parent: of.build, sandbox: of.id, nodes: [of.node] },
    ...{ machine, diskMiB, compat },
  })
}

/** It is safe on the node's disk. */
export function finishBuild(tx: Tx, id: BuildId, node: NodeId, more: Partial<Build> = {}): void {
  const build = tx.get('builds', id)
  if (build?.status !== 'building') return
  const attributes = tx.get('nodes', node)?.facts?.drivers.sandbox?.attributes
  tx.put('builds', {
    ...build,
    status: 'ready',
    nodes: [node],
    store: attributes?.store ?? '',
    compat: attributes?.compat ?? build.compat,
    changedAt: tx.now,
    ...more,
  })
}

export function failBuild(tx: Tx, id: BuildId, why: string, failure: BuildFailure): void {
  const build = tx.get('builds', id)
  if (build?.status !== 'building') return
  tx.put('builds', { ...build, status: 'failed', error: why.slice(0, 2000), failure, changedAt: tx.now })
}

/** Told to people; `sandbox.` goes before the kind. */
export function tell(
  tx: Tx,
  row: Pick<Sandbox, 'id' | 'node'>,
  kind: string,
  message: string,
  level: 'info' | 'warning' | 'error' = 'info',
): void {
  addEvent(tx, { level, kind: `sandbox.${kind}`, sandbox: row.id, node: row.node, message: message.slice(0, 2000) })
}

/** It ended without anybody having asked. What it was being saved to is nothing any more. */
export function fail(tx: Tx, row: Sandbox, reason: string): Sandbox {
  if (isOver(row.phase)) return row
  if (row.phase === 'pausing' && row.pausedBuild) failBuild(tx, row.pausedBuild, reason, 'unavailable')
  tell(tx, row, 'failed', reason, 'error')
  return enter(tx, row, 'failed', { reason })
}

/** Why somebody who wants a sandbox in another phase cannot have it now. */
export function wrongPhase({ id, phase, reason }: Sandbox, wanted: string): Fault {
  const why = reason === undefined ? '' : `: ${reason}`
  if (isOver(phase)) return new Fault('conflict', `sandbox ${id} ${phase === 'killed' ? 'was killed' : 'failed'}${why}`)
  const help: Partial<Record<SandboxPhase, string>> = {
    paused: `; "tutti sandbox resume ${id}" lets it go on`,
    creating: '; try again when it runs',
    pausing: '; try again when it is paused',
    resuming: '; try again when it runs',
  }
  return new Fault('conflict', `sandbox ${id} is ${phase} and cannot be ${wanted}${help[phase] ?? ''}`)
}

export function get(tx: Pick<Tx, 'get'>, id: SandboxId): Sandbox {
  const row = tx.get('sandboxes', id)
  if (!row) throw new Fault('not_found', `there is no sandbox "${id}"; "tutti sandbox list" shows those there are`)
  return row
}
