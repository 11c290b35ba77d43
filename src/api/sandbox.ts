import { publicBuild } from '../contract/build.ts'
import { page } from '../contract/page.ts'
import { publicSandbox } from '../contract/sandbox.ts'
import type { Control } from '../control/control.ts'
import { findNode, findSandbox } from '../control/find.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import { setEgress, setTimeoutOf, updateSandbox } from '../control/sandboxes/update.ts'
import { Fault } from '../model/fault.ts'
import { isActive, type Sandbox, type SandboxPhase } from '../model/sandbox.ts'
import type { View } from '../store/store.ts'
import type { Handlers } from './handlers.ts'

type SandboxHandlers = Pick<
  Handlers,
  | 'createSandbox'
  | 'listSandboxes'
  | 'getSandbox'
  | 'updateSandbox'
  | 'killSandbox'
  | 'pauseSandbox'
  | 'resumeSandbox'
  | 'forkSandbox'
  | 'snapshotSandbox'
  | 'setSandboxTimeout'
  | 'setSandboxEgress'
>

const mostMetadata = 50

export function sandboxHandlers({
  control,
  sandboxes,
}: {
  control: Control
  sandboxes: SandboxControl
}): SandboxHandlers {
  const { store } = control
  const { desk } = sandboxes
  const idOf = ({ sandbox }: { sandbox: string }) => findSandbox(store.view, sandbox).id
  const answer = (row: Sandbox) => ({ sandbox: publicSandbox(row), index: store.index })
  return {
    createSandbox: async ({ body, caller, signal }) => {
      const { template: from, node, cpuMHz: cpu, ...wanted } = body
      const place = node === undefined ? undefined : findNode(store.view, node).id
      return answer(await sandboxes.create({ ...wanted, from, node: place, cpu }, { by: caller.name, signal }))
    },
    listSandboxes: ({ query }) => {
      const { rows, next } = page(asked(store.view, query), (row) => row.id, query)
      return { sandboxes: rows.map(publicSandbox), next, index: store.index }
    },
    getSandbox: ({ params }) => {
      const row = findSandbox(store.view, params.sandbox)
      return { ...answer(row), nodeName: store.view.get('nodes', row.node)?.name ?? row.node }
    },
    updateSandbox: async ({ params, body, caller }) => {
      const row = findSandbox(store.view, params.sandbox)
      const keys = new Set([...Object.keys(row.metadata), ...Object.keys(body.metadata ?? {})])
      if (keys.size > mostMetadata) throw new Fault('invalid', `a sandbox has at most ${mostMetadata} metadata entries`)
      return answer(await updateSandbox(desk, row.id, { ...body, by: caller.name }))
    },
    killSandbox: async ({ params, caller }) => answer(await sandboxes.kill(idOf(params), { by: caller.name })),
    pauseSandbox: async ({ params, caller }) => answer(await sandboxes.pause(idOf(params), { by: caller.name })),
    resumeSandbox: async ({ params, caller, signal }) =>
      answer(await sandboxes.resume(idOf(params), { by: caller.name, signal })),
    forkSandbox: async ({ params, body, caller, signal }) => {
      const forks = await sandboxes.fork(idOf(params), body, { by: caller.name, signal })
      return {
        forks: forks.map((each) => ('sandbox' in each ? { sandbox: publicSandbox(each.sandbox) } : each)),
        index: store.index,
      }
    },
    snapshotSandbox: async ({ params, body: { template, tag }, caller, signal }) => {
      const wish = template === undefined ? {} : { tag: { template, tag } }
      const build = await sandboxes.snapshot(idOf(params), wish, { by: caller.name, signal })
      return { build: publicBuild(build), index: store.index }
    },
    setSandboxTimeout: async ({ params, body, caller }) =>
      answer(await setTimeoutOf(desk, idOf(params), { ...body, by: caller.name })),
    setSandboxEgress: async ({ params, body, caller }) =>
      answer(await setEgress(desk, idOf(params), { ...body, by: caller.name })),
  }
}

interface Asked {
  phase?: readonly SandboxPhase[] | undefined
  all: boolean
  template?: string | undefined
  node?: string | undefined
  metadata?: string | undefined
}

function* asked(view: View, { phase, all, template, node, metadata }: Asked): Iterable<Sandbox> {
  const place = node === undefined ? undefined : findNode(view, node).id
  const entries = metadata === undefined ? [] : readEntries(metadata)
  for (const row of view.all('sandboxes')) {
    if (phase ? !phase.includes(row.phase) : !all && !isActive(row)) continue
    if (template !== undefined && row.template !== template) continue
    if (place !== undefined && row.node !== place) continue
    if (entries.some(([key, value]) => row.metadata[key] !== value)) continue
    yield row
  }
}

/** `key=value,key=value`, each part percent-encoded. */
function readEntries(text: string): [key: string, value: string][] {
  return text.split(',').map((entry) => {
    const [key = '', value] = entry.split('=')
    try {
      if (key === '' || value === undefined) throw new Error('it is not key=value')
      return [decodeURIComponent(key), decodeURIComponent(value)]
    } catch {
      throw new Fault('invalid', `the query metadata: "${entry}" is not key=value, percent-encoded`)
    }
  })
}
