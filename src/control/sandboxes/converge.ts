import type { BuildId } from '../../model/ids.ts'
import type { Build, Sandbox } from '../../model/sandbox.ts'
import type { Tx } from '../../store/store.ts'
import type { SandboxReport } from '../../wire/sandbox.ts'
import type { SavedAnswer } from '../../wire/sandbox-answers.ts'
import { enter, expiryFrom, fail, failBuild, finishBuild, putBuildOf, tell } from './rows.ts'

/** Makes a row what its node says it is, by steps that the table of phases knows. */
export function converge(tx: Tx, row: Sandbox, report: SandboxReport): void {
  if (report.phase === row.phase) return
  const reason = report.reason ?? 'its machine ended'
  switch (report.phase) {
    case 'failed':
    case 'killed':
      fail(tx, row, reason)
      return
    case 'running':
      toRunning(tx, row, reason)
      return
    case 'paused':
      toPaused(tx, row, report)
      return
    // Under way on the node: it says more when that is over.
    case 'creating':
    case 'pausing':
    case 'resuming':
      return
    default:
      report.phase satisfies never
  }
}

function toRunning(tx: Tx, row: Sandbox, reason: string): void {
  if (row.phase === 'creating') {
    tell(tx, enter(tx, row, 'running', { expiresAt: expiryFrom(tx.now, row) }), 'created', `sandbox ${row.id} runs`)
  } else if (row.phase === 'pausing' && row.pausedBuild) putRunningAgain(tx, row, row.pausedBuild, reason)
  else if (row.phase === 'resuming') putResumed(tx, row)
  else if (row.phase === 'paused') putResumed(tx, enter(tx, row, 'resuming'))
}

function toPaused(tx: Tx, row: Sandbox, { build }: SandboxReport): void {
  if (row.phase === 'resuming') {
    putBack(tx, row, 'its node could not let it go on')
    return
  }
  if (row.phase === 'creating') return
  const status = tx.get('builds', build)?.status
  if (status !== 'building' && status !== 'ready') putBuildOf(tx, { id: build, of: row, reason: 'pause', by: row.by })
  putPaused(tx, row.phase === 'running' ? enter(tx, row, 'pausing', { pausedBuild: build }) : row, build)
}

/** It is paused: what it goes on from is safe, and its room is free. */
export function putPaused(tx: Tx, row: Sandbox, build: BuildId, answer?: SavedAnswer): Sandbox {
  finishBuild(tx, build, row.node, answer ? costOf(answer) : { addedBytes: null })
  const next = enter(tx, row, 'paused', { build, pausedBuild: build })
  tell(tx, next, 'paused', `sandbox ${row.id} is paused`)
  return next
}

/** What saving a sandbox came to, as its build tells. */
export function costOf({ addedBytes, stoppedMs, savedMs }: SavedAnswer): Pick<Build, 'addedBytes' | 'saved'> {
  return { addedBytes, saved: { stoppedMs, savedMs } }
}

/** It could not be paused. The node is told later to forget what there is of the build, if it does not turn out paused. */
export function putRunningAgain(tx: Tx, row: Sandbox, build: BuildId, why: string): void {
  failBuild(tx, build, why, 'unavailable')
  const next = enter(tx, row, 'running', { pausedBuild: null, expiresAt: row.expiresAt ?? expiryFrom(tx.now, row) })
  tell(tx, next, 'pause-failed', `sandbox ${row.id} could not be paused and runs on: ${why}`, 'warning')
}

/** It could not go on, and is paused where what it goes on from lies, whichever node was to take it. */
export function putBack(tx: Tx, row: Sandbox, reason: string): Sandbox {
  const nodes = (row.pausedBuild && tx.get('builds', row.pausedBuild)?.nodes) || []
  const node = nodes.includes(row.node) ? row.node : (nodes[0] ?? row.node)
  return enter(tx, { ...row, node }, 'paused', { reason })
}

/** It goes on where its pause left it. */
export function putResumed(tx: Tx, row: Sandbox): Sandbox {
  const next = enter(tx, row, 'running', {
    build: row.pausedBuild ?? row.build,
    pausedBuild: null,
    expiresAt: expiryFrom(tx.now, row),
    egressPending: false,
  })
  tell(tx, next, 'resumed', `sandbox ${row.id} goes on`)
  return next
}
