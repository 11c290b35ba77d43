import type { Server } from 'node:http'
import { createServer, connect as dialTcp, type Socket } from 'node:net'
import { type Authority, createAuthority } from '../../src/control/authority/authority.ts'
import { issueServerCertificate, signAgentRequest } from '../../src/control/authority/issue.ts'
import { createHttpServer, type HttpLimits } from '../../src/control/port/http-server.ts'
import { listen } from '../../src/control/port/listen.ts'
import { openPort, type Port, type PortLimits } from '../../src/control/port/port.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { systemRandom } from '../../src/kit/system-random.ts'
import { encodeId, NodeId } from '../../src/model/ids.ts'
import { dialControl } from '../../src/wire/http2/agent-side.ts'
import { createKeyAndRequest, type Identity } from '../../src/wire/http2/identity.ts'
import type { AgentLink, ControlLink, StreamService } from '../../src/wire/link.ts'

/** A real port with its own authority, and a small network between it and the agents that can be pulled apart. */
export interface PortRig extends AsyncDisposable {
  readonly port: Port
  readonly http: Server
  readonly authority: Authority
  /** Every agent that the port let in, in order. */
  readonly arrived: AgentLink[]
  /** A new agent with its own certificate. */
  identity(options?: {
    lifeMs?: number
    now?: number
    authority?: Authority
  }): Promise<{ node: NodeId; identity: Identity }>
  dial(identity: Identity, services?: Record<string, StreamService>): Promise<ControlLink>
  connect(options?: { services?: Record<string, StreamService> }): Promise<{ agent: ControlLink; control: AgentLink }>
  reset(): void
}

export async function newAuthority(name = 'test'): Promise<Authority> {
  return createAuthority({ name, clock: systemClock, random: systemRandom })
}

export async function portRig(
  limits: { port?: Partial<PortLimits>; http?: Partial<HttpLimits> } = {},
): Promise<PortRig> {
  const authority = await newAuthority()
  const now = systemClock.now()
  const { certificate, key } = await issueServerCertificate({ authority, hosts: [], now })
  const http = createHttpServer(limits.http)
  const waiting = new Map<string, (link: AgentLink) => void>()
  const arrived: AgentLink[] = []
  const port = await openPort({
    host: '127.0.0.1',
    port: 0,
    certificate,
    key,
    ca: authority.caCertificate,
    http,
    clock: systemClock,
    ...(limits.port && { limits: limits.port }),
    onAgent: (link) => {
      arrived.push(link)
      waiting.get(link.peer.node)?.(link)
    },
  })
  // Agents reach the port through this, so that connections can be ended from outside both ends.
  const between = new Set<Socket>()
  const relay = createServer((near) => {
    const far = dialTcp(port.port, '127.0.0.1')
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      between.add(one)
      one.setNoDelay(true)
      one.on('error', () => {})
      one.on('close', () => {
        between.delete(one)
        other.destroy()
      })
      one.pipe(other)
    }
  })
  const relayPort = await listen(relay, { host: '127.0.0.1', port: 0 })

  const identity: PortRig['identity'] = async ({ lifeMs, now: at = now, authority: by = authority } = {}) => {
    const node = NodeId.parse(encodeId(systemRandom.bytes(10)))
    const { key: agentKey, csr } = await createKeyAndRequest()
    const signed = await signAgentRequest({ authority: by, csr, nodeId: node, now: at, ...(lifeMs && { lifeMs }) })
    return { node, identity: { certificate: signed, key: agentKey, ca: authority.caCertificate } }
  }
  const dial: PortRig['dial'] = (who, services = {}) =>
    dialControl({
      address: { host: '127.0.0.1', port: relayPort },
      identity: who,
      services,
      clock: systemClock,
      signal: AbortSignal.timeout(30_000),
    })
  return {
    port,
    http,
    authority,
    arrived,
    identity,
    dial,
    async connect({ services } = {}) {
      const who = await identity()
      const arrival = Promise.withResolvers<AgentLink>()
      waiting.set(who.node, arrival.resolve)
      const agent = await dial(who.identity, services)
      return { agent, control: await arrival.promise }
    },
    reset: () => {
      for (const socket of between) socket.destroy()
    },
    async [Symbol.asyncDispose]() {
      await port[Symbol.asyncDispose]()
      http.close(() => {})
      http.closeAllConnections()
      for (const socket of between) socket.destroy()
      await new Promise((resolve) => relay.close(resolve))
    },
  }
}
