import type { IncomingMessage, Server } from 'node:http'
import { TLSSocket } from 'node:tls'
import { endpoints, type SocketName } from '../contract/endpoints.ts'
import { openApiDocument } from '../contract/openapi.ts'
import { authenticate } from '../control/actions/tokens.ts'
import type { Authority } from '../control/authority/authority.ts'
import type { Control } from '../control/control.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import type { Sessions } from '../control/sessions/sessions.ts'
import { type App, createApp } from '../http/app.ts'
import type { Caller, Route, SocketHandler } from '../http/route.ts'
import { Fault } from '../model/fault.ts'
import { readPeer } from '../wire/http2/peer.ts'
import { allocationHandlers, execSocket } from './allocation.ts'
import { auditHandlers } from './audit.ts'
import { buildHandlers } from './build.ts'
import { enrollHandlers } from './enroll.ts'
import { eventHandlers } from './event.ts'
import type { Handlers } from './handlers.ts'
import { createIngress } from './ingress.ts'
import { jobHandlers } from './job.ts'
import { nodeHandlers } from './node.ts'
import { sandboxHandlers } from './sandbox.ts'
import { sandboxAttachSocket, sandboxExecSocket, sandboxForwardSocket, sandboxGuestHandlers } from './sandbox-guest.ts'
import { systemHandlers } from './system.ts'
import { templateHandlers } from './template.ts'
import { tokenHandlers } from './token.ts'
import { watchHandlers } from './watch.ts'

export interface ApiOptions {
  /** Gets the API's requests. */
  server: Server
  control: Control
  authority: Authority
  sessions: Sessions
  sandboxes: SandboxControl
  /** Of Tutti. */
  version: string
}

/** The contract carried out: every endpoint has its handler here, or this does not compile. */
export async function createApi(options: ApiOptions): Promise<App> {
  const { control } = options
  const handlers: Handlers = {
    ...jobHandlers(options),
    ...allocationHandlers(options),
    ...nodeHandlers(options),
    ...sandboxHandlers(options),
    ...sandboxGuestHandlers(options),
    ...templateHandlers(options),
    ...buildHandlers(options),
    ...eventHandlers(options),
    ...auditHandlers(options),
    ...watchHandlers(options),
    ...tokenHandlers(options),
    ...enrollHandlers(options),
    ...systemHandlers({ ...options, document: openApiDocument({ version: options.version }) }),
  }
  const sockets: Record<SocketName, SocketHandler> = {
    execAllocation: execSocket(options),
    execSandbox: sandboxExecSocket(options),
    attachSandbox: sandboxAttachSocket(options),
    forwardSandbox: sandboxForwardSocket(options),
  }
  const names = Object.keys(handlers) as (keyof Handlers)[]
  return createApp({
    server: options.server,
    clock: control.clock,
    log: control.log,
    routes: names.map((name) => ({ route: endpoints[name] satisfies Route, handle: handlers[name] as never })),
    sockets: Object.entries(sockets).map(([name, handle]) => ({ route: endpoints[name as SocketName], handle })),
    intercept: createIngress(options),
    authenticate: (request, route) => whoAsks(control, request, route),
  })
}

/** A service account by its bearer token; for agents' own endpoints, the node that the client certificate proves. */
function whoAsks(control: Control, request: IncomingMessage, route: Route): Caller {
  if (route.role === 'agent') return { name: nodeOf(request, control), roles: ['agent'] }
  const header = request.headers.authorization
  if (header === undefined)
    throw new Fault('unauthenticated', 'a token is needed; "tutti context show" says which one the command line uses')
  const [scheme, token = ''] = header.split(' ')
  if (scheme?.toLowerCase() !== 'bearer')
    throw new Fault('unauthenticated', 'the Authorization header must be "Bearer" and a token')
  return authenticate(control.store.view, token, control.clock.now())
}

/** The node whose newest certificate the connection shows; an earlier one, replaced since, counts for nothing. */
function nodeOf(request: IncomingMessage, { store, clock }: Control): string {
  const { socket } = request
  if (!(socket instanceof TLSSocket))
    throw new Fault('unauthenticated', 'an agent proves itself by TLS, and this is not')
  const peer = readPeer(socket, clock.now())
  const node = store.view.get('nodes', peer.node)
  if (node && (peer.keyFingerprint === node.keyFingerprint || peer.keyFingerprint === node.nextKeyFingerprint))
    return node.id
  throw new Fault('unauthenticated', 'only an agent, by the newest certificate of its node, may ask this')
}
