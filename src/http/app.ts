import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from 'fastify'
import { type WebSocket, WebSocketServer } from 'ws'
import type { ZodType } from 'zod'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import { Fault } from '../model/fault.ts'
import { sendEvents } from './events.ts'
import { faultOfZod, problemOf, statusOf } from './problem.ts'
import {
  type Caller,
  EventAnswer,
  type Handler,
  OctetAnswer,
  type ParsedRequest,
  type Route,
  type SocketHandler,
  type SocketRequest,
} from './route.ts'

/** Requests larger than this are refused before they are read; a job spec is far smaller. */
const bodyLimitBytes = 2 * 2 ** 20
/** A WebSocket message is at most one frame; see `wire/frames.ts`. */
const maxSocketMessageBytes = 2 ** 20 + 64

export interface AppOptions {
  /** Gets the requests; who gives it connections, and with which limits, is not this file's business. */
  server: Server
  clock: Clock
  log: Log
  routes: readonly { route: Route; handle: Handler }[]
  sockets: readonly { route: Route; handle: SocketHandler }[]
  /** Who sent this; throws a Fault `unauthenticated` when nobody known did. Not asked for public routes. */
  authenticate: (request: IncomingMessage, route: Route) => Caller
  /** Sees every request first, and takes those that are not the API's. */
  intercept?: Intercept | undefined
}

export interface Intercept {
  /** True: it is dealt with. */
  request(request: IncomingMessage, response: ServerResponse): boolean
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): boolean
}

export interface App {
  /** Ends what is under way, streams included. */
  close(): Promise<void>
}

/** Serves routes: parses what comes in, checks who may, and turns what goes wrong into a problem document. */
export async function createApp(options: AppOptions): Promise<App> {
  const { server } = options
  const app = fastify({
    bodyLimit: bodyLimitBytes,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: 200 },
    serverFactory: (handler) =>
      server.on('request', (request, response) => {
        if (!options.intercept?.request(request, response)) handler(request, response)
      }),
  })
  app.setErrorHandler((error, request, reply) => sendProblem(options.log, error, request, reply))
  app.setNotFoundHandler((request, reply) => {
    void sendProblem(
      options.log,
      new Fault('not_found', `there is nothing at ${request.method} ${request.url.split('?')[0]}`),
      request,
      reply,
    )
  })
  for (const { route, handle } of options.routes) if (!route.upload) addRoute(app, options, route, handle)
  void app.register(async (uploads) => {
    // Whatever they say they are, these bodies are bytes; nobody gathers them.
    uploads.removeAllContentTypeParsers()
    uploads.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    for (const { route, handle } of options.routes) if (route.upload) addRoute(uploads, options, route, handle)
  })
  const sockets = addSockets(server, options)
  await app.ready()
  return {
    close: async () => {
      for (const socket of sockets.clients) socket.terminate()
      server.closeAllConnections()
      await app.close()
    },
  }
}

function addRoute(app: FastifyInstance, options: AppOptions, route: Route, handle: Handler): void {
  app.route({
    method: route.method,
    url: route.path,
    handler: async (request, reply) => {
      const caller = admit(options, route, request.raw)
      const gone = new AbortController()
      reply.raw.once('close', () => {
        if (!reply.raw.writableFinished) gone.abort(new Error('the client has gone'))
      })
      const parsed: ParsedRequest = {
        params: parse('the path', route.params, request.params),
        query: parse('the query', route.query, request.query),
        body: route.upload ? undefined : parse('the body', route.body, request.body ?? undefined),
        caller,
        raw: request.raw,
        signal: gone.signal,
      }
      const answer = await handle(parsed)
      if (answer instanceof OctetAnswer)
        return reply.header('content-type', answer.contentType).header('cache-control', 'no-store').send(answer.body)
      if (answer instanceof EventAnswer) {
        reply.hijack()
        await sendEvents(reply.raw, answer.events, { clock: options.clock, signal: gone.signal })
        return reply
      }
      if (answer === undefined) return reply.code(204).send()
      return reply.send(answer)
    },
  })
}

function addSockets(server: Server, options: AppOptions): WebSocketServer {
  const sockets = new WebSocketServer({ noServer: true, maxPayload: maxSocketMessageBytes, perMessageDeflate: false })
  const matchers = options.sockets.map(({ route, handle }) => ({ route, handle, match: matcher(route.path) }))
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy())
    if (options.intercept?.upgrade(request, socket, head)) return
    try {
      const url = new URL(request.url ?? '/', 'https://tutti')
      const found = matchers
        .map((entry) => ({ ...entry, params: entry.match(url.pathname) }))
        .find((entry) => entry.params !== undefined)
      if (!found) throw new Fault('not_found', `there is no WebSocket at ${url.pathname}`)
      const gone = new AbortController()
      const admitAgain = () => admit(options, found.route, request)
      const parsed: SocketRequest = {
        caller: admitAgain(),
        admitAgain,
        params: parse('the path', found.route.params, found.params),
        query: parse('the query', found.route.query, Object.fromEntries(url.searchParams)),
        body: undefined,
        raw: request,
        signal: gone.signal,
      }
      sockets.handleUpgrade(request, socket, head, (client) => {
        client.once('close', () => gone.abort(new Error('the client has gone')))
        client.on('error', () => client.terminate())
        found.handle(parsed, client).catch((error: unknown) => {
          if (error !== gone.signal.reason) closeWithFault(options.log, client, error)
        })
      })
    } catch (error) {
      refuseUpgrade(socket, Fault.from(error))
    }
  })
  return sockets
}

function admit({ authenticate }: AppOptions, route: Route, request: IncomingMessage): Caller {
  if (route.role === 'public') return { name: 'anybody', roles: [] }
  const caller = authenticate(request, route)
  if (caller.roles.includes(route.role)) return caller
  throw new Fault(
    'denied',
    `"${caller.name}" may not do this: it needs the role ${route.role}, and has ${caller.roles.join(', ') || 'none'}`,
  )
}

function parse(part: string, schema: ZodType | undefined, value: unknown): unknown {
  if (!schema) return value
  const result = schema.safeParse(value)
  if (result.success) return result.data
  throw faultOfZod(part, result.error)
}

/** `/v1/allocations/:id/exec` → what the parameters are, or undefined. */
function matcher(path: string): (pathname: string) => Record<string, string> | undefined {
  const names: string[] = []
  const pattern = path.replace(/:(\w+)/g, (_, name: string) => {
    names.push(name)
    return '([^/]+)'
  })
  const expression = new RegExp(`^${pattern}$`)
  return (pathname) => {
    const match = expression.exec(pathname)
    return match
      ? Object.fromEntries(names.map((name, index) => [name, decodeURIComponent(match[index + 1] ?? '')]))
      : undefined
  }
}

async function sendProblem(log: Log, thrown: unknown, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const fault = toFault(thrown)
  if (fault.code === 'internal')
    log.error({ err: thrown, method: request.method, path: request.routeOptions.url }, 'a request failed')
  await reply
    .code(statusOf[fault.code])
    .header('content-type', 'application/problem+json')
    .send(JSON.stringify(problemOf(fault)))
}

/** The server's own refusals (a body that is too large, or not JSON) have a status; everything unknown is ours. */
function toFault(thrown: unknown): Fault {
  const status = (thrown as { statusCode?: number }).statusCode
  if (thrown instanceof Fault || status === undefined || status >= 500) return Fault.from(thrown)
  if (status === 413)
    return new Fault('invalid', `the request body is over the limit of ${bodyLimitBytes / 2 ** 20} MiB`)
  return new Fault(
    'invalid',
    `the request cannot be read: ${thrown instanceof Error ? thrown.message : String(thrown)}`,
  )
}

function refuseUpgrade(socket: Duplex, fault: Fault): void {
  const body = JSON.stringify(problemOf(fault))
  socket.end(
    `HTTP/1.1 ${statusOf[fault.code]} Refused\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  )
}

/** Policy violation (RFC 6455, 7.4.1), with the sentence cut to what a close frame holds. */
function closeWithFault(log: Log, client: WebSocket, thrown: unknown): void {
  const fault = Fault.from(thrown)
  if (fault.code === 'internal') log.error({ err: thrown }, 'a WebSocket failed')
  if (client.readyState !== client.OPEN) return
  client.send(JSON.stringify({ fault: problemOf(fault) }))
  client.close(1008, Buffer.from(fault.message).subarray(0, 120).toString())
}
