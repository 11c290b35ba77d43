import { sentence } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import { type Build, buildFailureOf } from '../../model/sandbox.ts'
import { newId } from '../control.ts'
import { addAudit } from '../marks.ts'
import { askNode } from './ask.ts'
import { costOf } from './converge.ts'
import { type Asked, type Desk, occupy } from './desk.ts'
import { failBuild, finishBuild, get, putBuildOf, tell, wrongPhase } from './rows.ts'
import { checkTag, putTag, type TagName } from './templates.ts'

/** Makes a build of a running sandbox, which goes on. Resolves when it is safe on its node's disk. */
export async function snapshotSandbox(
  desk: Desk,
  id: SandboxId,
  { tag }: { tag?: TagName | undefined },
  { by }: Asked,
): Promise<Build> {
  const { control, nodes, signal } = desk
  await desk.busy.get(id)?.done.catch(() => {})
  const row = get(control.store.view, id)
  if (row.phase !== 'running' || desk.busy.has(id)) throw wrongPhase(row, 'snapshotted')
  const build = newId(control) as BuildId
  await occupy(desk, id, 'snapshot', async () => {
    await control.store.write((tx) => {
      const current = get(tx, id)
      if (current.phase !== 'running') throw wrongPhase(current, 'snapshotted')
      if (tag) checkTag(tx, tag)
      putBuildOf(tx, { id: build, of: current, reason: 'snapshot', by })
      addAudit(tx, { by, action: 'sandbox.snapshot', subject: id })
    })
    try {
      const saved = await askNode(nodes, row.node, { op: 'snapshot', id, build }, { signal })
      await control.store.write((tx) => {
        finishBuild(tx, build, row.node, { ...costOf(saved), template: tag?.template ?? null })
        if (tag) putTag(tx, tag, build)
        tell(tx, row, 'snapshotted', `a snapshot of sandbox ${id} was taken: build ${build}`)
      })
    } catch (error) {
      if (!signal.aborted)
        await control.store.write((tx) => failBuild(tx, build, sentence(error), buildFailureOf(error)))
      throw error
    }
    return get(control.store.view, id)
  })
  return control.store.view.get('builds', build) as Build
}
