import { systemClock } from '../../src/kit/system-clock.ts'
import { systemRandom } from '../../src/kit/system-random.ts'
import { encodeId, NodeId } from '../../src/model/ids.ts'
import type { AgentLink } from '../../src/wire/link.ts'
import { memoryNetwork } from '../../src/wire/memory-link.ts'
import { type LinkRig, linkConformance } from './link.ts'
import { portRig } from './port-rig.ts'

linkConformance('memory', async () => {
  const network = memoryNetwork({ clock: systemClock, random: systemRandom })
  const nodes: NodeId[] = []
  const arrivals = new Map<string, (link: AgentLink) => void>()
  const stop = network.onAgent((link) => arrivals.get(link.peer.node)?.(link))
  return {
    async connect(services = {}) {
      const node = newNodeId()
      nodes.push(node)
      const arrival = Promise.withResolvers<AgentLink>()
      arrivals.set(node, arrival.resolve)
      const agent = await network.dial(node, { services, signal: new AbortController().signal })
      return { agent, control: await arrival.promise }
    },
    reset: () => {
      for (const node of nodes) network.reset(node)
    },
    async [Symbol.asyncDispose]() {
      stop()
    },
  } satisfies LinkRig
})

linkConformance('http2', async () => {
  const rig = await portRig()
  return {
    connect: (services = {}) => rig.connect({ services }),
    reset: () => rig.reset(),
    [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose](),
  } satisfies LinkRig
})

function newNodeId(): NodeId {
  return NodeId.parse(encodeId(systemRandom.bytes(10)))
}
