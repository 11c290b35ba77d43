import { publicNode } from '../contract/node.ts'
import { page } from '../contract/page.ts'
import { cancelDrain, drainNode, forgetNode, labelNode, setEligible } from '../control/actions/steer-node.ts'
import type { Control } from '../control/control.ts'
import { findNode } from '../control/find.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import { usedOf } from '../control/usage.ts'
import type { Node } from '../model/node.ts'
import type { Handlers } from './handlers.ts'

type NodeHandlers = Pick<
  Handlers,
  'listNodes' | 'getNode' | 'drainNode' | 'setNodeEligible' | 'labelNode' | 'forgetNode'
>

interface Options {
  control: Control
  sandboxes: SandboxControl
}

export function nodeHandlers({ control, sandboxes }: Options): NodeHandlers {
  const { store } = control
  const withUsage = (node: Node) => ({ ...publicNode(node), usage: reserved(control, node) })
  const answer = (node: Node) => ({ node: publicNode(node), index: store.index })
  return {
    listNodes: ({ query }) => {
      const { rows, next } = page(store.view.all('nodes'), (node) => node.id, query)
      return { nodes: rows.map(withUsage), next, index: store.index }
    },
    getNode: ({ params }) => ({ node: withUsage(findNode(store.view, params.node)), index: store.index }),
    drainNode: async ({ params, body, caller: { name: by } }) =>
      answer(
        body.cancel
          ? await cancelDrain(control, params.node, { by })
          : await drainNode(control, params.node, { by, deadlineMs: body.deadlineMs }),
      ),
    setNodeEligible: async ({ params, body, caller: { name: by } }) =>
      answer(await setEligible(control, params.node, { by, eligible: body.eligible })),
    labelNode: async ({ params, body, caller: { name: by } }) =>
      answer(await labelNode(control, params.node, { by, labels: body.labels })),
    forgetNode: async ({ params, caller: { name: by }, signal }) => {
      await forgetNode(sandboxes.desk, params.node, { by, signal })
    },
  }
}

function reserved({ store }: Control, node: Node) {
  const live = [...store.view.by('liveAllocationsByNode', node.id)]
  const sandboxes = [...store.view.by('sandboxesHoldingRoom', node.id)]
  const used = usedOf(store.view, node.id)
  return {
    allocations: live.length,
    sandboxes: sandboxes.length,
    cpuMHz: used.cpuMHz + used.cores * (node.facts?.coreMHz ?? 0),
    memory: used.memory,
    disk: used.disk,
  }
}
