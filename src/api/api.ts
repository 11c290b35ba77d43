import type { IncomingMessage, Server } from 'node:http'
import type { TLSSocket } from 'node:tls'
import type { EndpointName } from '../contract/endpoints.ts'
import { endpoints } from '../contract/endpoints.ts'
import { openApiDocument } from '../contract/openapi.ts'
import { authenticate } from '../control/actions/tokens.ts'
import type { Authority } from '../control/authority/authority.ts'
import type { Control } from '../control/control.ts'
import type { Sessions } from '../control/sessions/sessions.ts'
import { type App, createApp } from '../http/app.ts'
import type { Caller, Route } from '../http/route.ts'
import { Fault } from '../model/fault.ts'
import { allocationHandlers, execSocket } from './allocation.ts'
import { enrollHandlers } from './enroll.ts'
import { eventHandlers } from './event.ts'
import type { Handlers } from './handlers.ts'
import { jobHandlers } from './job.ts'
import { nodeHandlers } from './node.ts'
import { systemHandlers } from './system.ts'
import { tokenHandlers } from './token.ts'
import { watchHandlers } from './watch.ts'

export interface ApiOptions {
  /** Gets the API's requests. */
  server: Server
  control: Control
  authority: Authority
  sessions: Sessions
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
    ...eventHandlers(options),
    ...watchHandlers(options),
    ...tokenHandlers(options),
    ...enrollHandlers(options),
    ...systemHandlers({ ...options, document: openApiDocument({ version: options.version }) }),
  }
  const names = Object.keys(handlers) as (keyof Handlers)[]
  return createApp({
    server: options.server,
    clock: control.clock,
    log: control.log,
    routes: names.map((name) => ({ route: endpoints[name] satisfies Route, handle: handlers[name] as never })),
    sockets: [{ route: endpoints.execAllocation, handle: execSocket(options) }],
    authenticate: (request, route) => whoAsks(control, request, route),
  })
}

export type HandledName = Exclude<EndpointName, 'execAllocation'>

/** A service account by its bearer token; for agents' own endpoints, the node that the client certificate proves. */
function whoAsks({ store, clock }: Control, request: IncomingMessage, route: Route): Caller {
  if (route.role === 'agent') return { name: nodeOf(request, store), roles: ['agent'] }
  const header = request.headers.authorization
  if (header === undefined)
    throw new Fault('unauthenticated', 'a token is needed; "tutti context show" says which one the command line uses')
  const [scheme, token = ''] = header.split(' ')
  if (scheme?.toLowerCase() !== 'bearer')
    throw new Fault('unauthenticated', 'the Authorization header must be "Bearer" and a token')
  return authenticate(store.view, token, clock.now())
}

function nodeOf(request: IncomingMessage, store: Control['store']): string {
  const socket = request.socket as TLSSocket
  const node = socket.authorized ? String(socket.getPeerCertificate().subject?.CN ?? '') : ''
  if (!store.view.get('nodes', node))
    throw new Fault('unauthenticated', 'only a connected agent, by its certificate, may ask this')
  return node
}
