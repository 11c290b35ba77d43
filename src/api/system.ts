import { Readable } from 'node:stream'
import type { Control } from '../control/control.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import type { Sessions } from '../control/sessions/sessions.ts'
import { OctetAnswer } from '../http/route.ts'
import type { Handlers } from './handlers.ts'
import { createMetrics } from './metrics.ts'

type SystemHandlers = Pick<Handlers, 'health' | 'status' | 'openapi' | 'metrics'>

export interface SystemOptions {
  control: Control
  sessions: Sessions
  sandboxes: SandboxControl
  version: string
  document: Record<string, unknown>
}

export function systemHandlers({ control, sessions, sandboxes, version, document }: SystemOptions): SystemHandlers {
  const { store, clock } = control
  const startedAt = clock.now()
  const metrics = createMetrics({ control, sessions, sandboxes })
  return {
    health: () => ({ ok: true }),
    status: ({ caller }) => {
      const name = store.view.get('cluster', 'cluster')?.name ?? 'tutti'
      return {
        name,
        version,
        index: store.index,
        startedAt,
        now: clock.now(),
        leader: { name, self: true },
        counts: counts(control),
        you: { name: caller.name, roles: [...caller.roles] },
      }
    },
    openapi: () => document,
    metrics: async () => new OctetAnswer(Readable.from([await metrics.metrics()]), metrics.contentType),
  }
}

function counts({ store: { view } }: Control): Record<string, number> {
  let live = 0
  let ready = 0
  for (const node of view.all('nodes')) {
    if (node.phase === 'ready') ready += 1
    for (const _ of view.by('liveAllocationsByNode', node.id)) live += 1
  }
  return { jobs: view.count('jobs'), allocations: view.count('allocations'), live, nodes: view.count('nodes'), ready }
}
