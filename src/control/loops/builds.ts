import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import { Fault } from '../../model/fault.ts'
import { keyOf } from '../../model/records.ts'
import type { Build } from '../../model/sandbox.ts'
import type { Control } from '../control.ts'
import { askNode } from '../sandboxes/ask.ts'
import { isNeeded } from '../sandboxes/builds.ts'
import type { SandboxControl } from '../sandboxes/sandboxes.ts'

/** A build that nobody needs is kept this long: what needed it may just be on its way. */
const idleMs = 10_000
/** What a node says of something that failed has come by then. */
const settledMs = 60_000
/** A build whose context does not come is given up. */
const contextWithinMs = 15 * 60_000

/**
 * Has nodes forget builds that are to be deleted, that failed, and those of pauses and forks that no sandbox needs any
 * more. The row goes when every node that had it has said so, or is gone; that of a failed build stays to be read.
 */
export async function sweepBuilds(
  control: Control,
  { sandboxes, signal }: { sandboxes: SandboxControl; signal: AbortSignal },
): Promise<void> {
  const wakeup = new Wakeup()
  const stop = control.store.subscribe(({ changes }) => {
    if (changes.some((change) => change.table === 'builds' && change.row?.status === 'deleting')) wakeup.ring()
  })
  signal.addEventListener('abort', stop, { once: true })
  await loop({
    clock: control.clock,
    wakeup,
    everyMs: 30_000,
    signal,
    onError: (error) => control.log.error({ err: error }, 'builds could not be swept'),
    pass: async () => sweepOnce(control, sandboxes),
  })
}

export async function sweepOnce(control: Control, sandboxes: SandboxControl): Promise<void> {
  const { store, clock } = control
  const now = clock.now()
  const doomed: Build[] = []
  for (const build of store.view.all('builds')) {
    if (build.status === 'building') {
      if (build.reason === 'template' && now - build.createdAt > contextWithinMs && sandboxes.isWaiting(build.id))
        sandboxes.cancelBuild(build.id, new Fault('unavailable', 'its context never came'))
    } else if (build.status === 'failed') {
      // It may still turn out that the node made it after all.
      if (now - build.changedAt > settledMs && !isNeeded(store.view, build.id))
        await forgetFailed(control, sandboxes, build)
    } else if (build.status === 'deleting' || isLeftOver(control, build, now)) doomed.push(build)
  }
  for (const build of doomed) {
    sandboxes.cancelBuild(build.id, new Fault('conflict', 'the build was deleted'))
    if (!(await forget(control, sandboxes, build))) continue
    await store.write((tx) => {
      const row = tx.get('builds', build.id)
      if (!row || (row.status !== 'deleting' && isNeeded(tx, row.id))) return
      for (const { part } of [...tx.by('buildLogsByBuild', row.id)])
        tx.delete('buildLogs', keyOf.buildLogs({ build: row.id, part, lines: [] }))
      tx.delete('builds', row.id)
    })
  }
}

function isLeftOver({ store }: Control, build: Build, now: number): boolean {
  const isPassing = build.reason === 'pause' || build.reason === 'fork'
  return isPassing && now - build.changedAt > idleMs && !isNeeded(store.view, build.id)
}

async function forgetFailed(control: Control, sandboxes: SandboxControl, build: Build): Promise<void> {
  if (build.nodes.length === 0 || !(await forget(control, sandboxes, build))) return
  await control.store.write((tx) => {
    const row = tx.get('builds', build.id)
    if (row?.status === 'failed') tx.put('builds', { ...row, nodes: [] })
  })
}

/** True when every node that had it has forgotten it. */
async function forget({ store, log }: Control, { desk }: SandboxControl, build: Build): Promise<boolean> {
  let all = true
  for (const node of build.nodes) {
    if (!store.view.get('nodes', node)) continue
    try {
      await askNode(desk.nodes, node, { op: 'forgetBuild', build: build.id }, { signal: desk.signal })
    } catch (error) {
      if (Fault.from(error).code === 'not_found') continue
      log.debug({ err: error, node, build: build.id }, 'a node could not forget a build yet')
      all = false
    }
  }
  return all
}
