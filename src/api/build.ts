import { once } from 'node:events'
import { Readable } from 'node:stream'
import { publicBuild } from '../contract/build.ts'
import { page } from '../contract/page.ts'
import type { Control } from '../control/control.ts'
import { findNode } from '../control/find.ts'
import { readBuildLog } from '../control/sandboxes/build-log.ts'
import { findBuild } from '../control/sandboxes/builds.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import { deleteBuild } from '../control/sandboxes/templates.ts'
import { OctetAnswer } from '../http/route.ts'
import type { Build } from '../model/sandbox.ts'
import type { Handlers } from './handlers.ts'

type BuildHandlers = Pick<
  Handlers,
  'sendBuildContext' | 'listBuilds' | 'getBuild' | 'importBuild' | 'deleteBuild' | 'buildLogs'
>

export function buildHandlers({ control, sandboxes }: { control: Control; sandboxes: SandboxControl }): BuildHandlers {
  const { store } = control
  const answer = (row: Build) => ({ build: publicBuild(row), index: store.index })
  return {
    sendBuildContext: async ({ params, raw }) => {
      const { id } = findBuild(store.view, params.build)
      const run = sandboxes.runBuild(id, raw)
      // It goes on when the context has been read; what becomes of it is seen in its row and its log.
      const read = once(raw, 'end').then(() => undefined)
      read.catch(() => {})
      await Promise.race([run, read])
      run.catch(() => {})
      return answer(findBuild(store.view, id))
    },
    listBuilds: ({ query: { template, status, node, all, ...pages } }) => {
      const place = node === undefined ? undefined : findNode(store.view, node).id
      const wanted = (row: Build) =>
        (template === undefined || row.template === template) &&
        (status === undefined || row.status === status) &&
        (place === undefined || row.nodes.includes(place)) &&
        (all || row.reason === 'template' || row.reason === 'snapshot')
      const { rows, next } = page([...store.view.all('builds')].filter(wanted), (row) => row.id, pages)
      return { builds: rows.map(publicBuild), next, index: store.index }
    },
    getBuild: ({ params }) => answer(findBuild(store.view, params.build)),
    importBuild: async ({ body: { build, node, template, tag }, caller, signal }) =>
      answer(
        await sandboxes.importBuild(
          {
            build,
            node: node === undefined ? undefined : findNode(store.view, node).id,
            tag: template === undefined ? undefined : { template, tag },
          },
          { by: caller.name, signal },
        ),
      ),
    deleteBuild: async ({ params, caller }) => {
      await deleteBuild(control, params.build, { by: caller.name })
    },
    buildLogs: ({ params, query, signal }) => {
      const { id } = findBuild(store.view, params.build)
      return new OctetAnswer(Readable.from(linesOf(control, id, query.follow, signal)), 'application/x-ndjson')
    },
  }
}

async function* linesOf(control: Control, id: Build['id'], follow: boolean, signal: AbortSignal) {
  for await (const line of readBuildLog(control, id, { follow, signal })) yield `${JSON.stringify(line)}\n`
}
