import type { Readable } from 'node:stream'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import type { Control } from '../control.ts'
import { currentUsage, noteUsage } from '../usage.ts'
import {
  type Building,
  type BuildWish,
  beginBuild,
  cancelBuild,
  failOrphanedBuilds,
  runBuild,
} from './build-template.ts'
import { createSandbox, type Wanted } from './create.ts'
import type { Asked, Desk, Nodes } from './desk.ts'
import { type ForkWish, forkSandbox } from './fork.ts'
import { type ImportWish, importBuild } from './import-build.ts'
import { killSandbox } from './kill.ts'
import { Meter } from './meter.ts'
import { noteSandboxes, type SandboxNews } from './note.ts'
import { pauseSandbox } from './pause.ts'
import { resumeSandbox } from './resume.ts'
import { snapshotSandbox } from './snapshot.ts'
import { Starts } from './starts.ts'
import type { TagName } from './templates.ts'

/**
 * Everything that can be done with sandboxes and templates. Each verb commits what it is about to do, asks the node, and
 * commits what became of it; a crash in between settles by what the node reports (`note.ts`).
 */
export type SandboxControl = ReturnType<typeof openSandboxes>

export function openSandboxes({
  control,
  nodes,
  signal,
}: {
  control: Control
  nodes: Nodes
  /** Fires when the control plane stops. */
  signal: AbortSignal
}) {
  const desk: Desk = {
    ...{ control, nodes, signal },
    busy: new Map(),
    starts: new Starts(),
    usage: currentUsage(control),
    meter: new Meter(control.clock),
    measures: new Map(),
  }
  const stop = control.store.subscribe(({ changes }) => {
    for (const change of changes) noteUsage(desk.usage, control.store.view, change)
  })
  signal.addEventListener('abort', stop, { once: true })
  const building = new Map<BuildId, Building>()
  return {
    desk,
    create: (wanted: Wanted, asked: Asked) => desk.meter.time('create', () => createSandbox(desk, wanted, asked)),
    pause: (id: SandboxId, asked: { by: string }) => pauseSandbox(desk, id, asked),
    resume: (id: SandboxId, asked: Asked) => resumeSandbox(desk, id, asked),
    fork: (id: SandboxId, wish: ForkWish, asked: Asked) => forkSandbox(desk, id, wish, asked),
    snapshot: (id: SandboxId, wish: { tag?: TagName | undefined }, asked: Asked) =>
      snapshotSandbox(desk, id, wish, asked),
    kill: (id: SandboxId, asked: { by: string; reason?: string }) => killSandbox(desk, id, asked),
    note: (news: SandboxNews) => noteSandboxes(desk, news),
    beginBuild: (wish: BuildWish, asked: { by: string }) => beginBuild(desk, building, wish, asked),
    /** Without a context when the recipe copies nothing. */
    runBuild: (id: BuildId, context?: Readable) => runBuild(desk, building, id, context),
    /** Its context has not come yet. */
    isWaiting: (id: BuildId) => building.get(id)?.started === false,
    importBuild: (wish: ImportWish, asked: Asked) => importBuild(desk, wish, asked),
    cancelBuild: (id: BuildId, reason: Error) => cancelBuild(desk, building, id, reason),
    /** To be called once, before anything else: what an earlier control plane left. */
    recover: () => failOrphanedBuilds(desk),
  }
}
