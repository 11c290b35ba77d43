import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { authenticate } from '../control/actions/tokens.ts'
import type { Control } from '../control/control.ts'
import { findSandbox } from '../control/find.ts'
import { openIn } from '../control/sandboxes/access.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import type { Intercept } from '../http/app.ts'
import { problemOf, statusOf } from '../http/problem.ts'
import { Fault } from '../model/fault.ts'
import { recordAccess } from './access.ts'

/**
 * HTTP and WebSockets to ports of sandboxes, for browsers and programs that know nothing of Tutti: by name, where
 * `<port>-<sandbox>.<anything>` leads to the control plane, or below `/v1/sandboxes/ID/ports/PORT/`. Whoever comes must
 * show a token that may connect. The token goes no further.
 */
export function createIngress({ control, sandboxes }: { control: Control; sandboxes: SandboxControl }): Intercept {
  return {
    request: (request, response) => {
      const place = placeOf(request)
      if (!place) return false
      serve(control, sandboxes, place, request, response).catch((error: unknown) => refuse(response, error))
      return true
    },
    upgrade: (request, socket, head) => {
      const place = placeOf(request)
      if (!place) return false
      join(control, sandboxes, place, request, socket, head).catch((error: unknown) => refuseUpgrade(socket, error))
      return true
    },
  }
}

const tokenName = 'tutti-token'

interface Place {
  sandbox: string
  port: number
  /** As the guest is to see it. */
  path: string
  /** Where a cookie holds. */
  prefix: string
}

function placeOf({ url = '/', headers: { host = '' } }: IncomingMessage): Place | undefined {
  const named = /^(\d{1,5})-([0-9a-z]{16})\./i.exec(host)
  if (named) return { port: Number(named[1]), sandbox: (named[2] ?? '').toLowerCase(), path: url, prefix: '/' }
  const below = /^(\/v1\/sandboxes\/([a-z0-9][a-z0-9-]{0,62})\/ports\/(\d{1,5}))(\/[^?]*)?(\?.*)?$/.exec(url)
  if (!below) return undefined
  const [, prefix = '', sandbox = '', port, path = '/', query = ''] = below
  return { port: Number(port), sandbox, path: `${path}${query}`, prefix: `${prefix}/` }
}

async function serve(
  control: Control,
  sandboxes: SandboxControl,
  place: Place,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const gone = new AbortController()
  response.once('close', () => gone.abort(new Error('the client has gone')))
  const { stream, path, headers, cookie } = await enter(control, sandboxes, place, request, gone.signal)
  const inner = httpRequest({
    method: request.method ?? 'GET',
    path,
    headers: { ...headers, connection: 'close' },
    setHost: false,
    createConnection: () => stream as never,
  })
  inner.on('response', (answer) => {
    const shown = withoutHops(answer.headers)
    if (cookie !== undefined) shown['set-cookie'] = [...(answer.headers['set-cookie'] ?? []), cookie]
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage, shown)
    answer.on('error', () => response.destroy())
    answer.pipe(response)
  })
  inner.on('error', (error) => {
    if (response.headersSent) response.destroy()
    else refuse(response, new Fault('unavailable', `port ${place.port} of the sandbox broke off`, { cause: error }))
  })
  inner.on('close', () => stream.destroy())
  request.on('error', () => inner.destroy())
  request.pipe(inner)
}

async function join(
  control: Control,
  sandboxes: SandboxControl,
  place: Place,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const gone = new AbortController()
  socket.once('close', () => gone.abort(new Error('the client has gone')))
  const { stream, path, headers } = await enter(control, sandboxes, place, request, gone.signal)
  const asked = { ...headers, connection: 'Upgrade', upgrade: request.headers.upgrade ?? 'websocket' }
  const lines = Object.entries(asked).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((each) => `${name}: ${each}\r\n`),
  )
  stream.write(`${request.method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
  if (head.length > 0) stream.write(head)
  stream.on('error', () => socket.destroy())
  stream.on('close', () => socket.destroy())
  socket.on('close', () => stream.destroy())
  socket.pipe(stream)
  stream.pipe(socket)
}

/** Who comes is looked at, then the port is reached. */
async function enter(
  control: Control,
  sandboxes: SandboxControl,
  { sandbox, port, path, prefix }: Place,
  request: IncomingMessage,
  signal: AbortSignal,
) {
  const shown = tokenOf(request, path)
  const caller = authenticate(control.store.view, shown.token, control.clock.now())
  if (!caller.roles.includes('compute:connect'))
    throw new Fault('denied', `"${caller.name}" may not do this: it needs the role compute:connect`)
  if (port < 1 || port > 65_535) throw new Fault('invalid', `there is no port ${port}`)
  const { id } = findSandbox(control.store.view, sandbox)
  // Once for each visitor, not for each picture on a page.
  if (shown.isNew) recordAccess(control, { by: caller.name, action: 'sandbox.ingress', subject: `${id} ${port}` })
  const stream = await openIn(sandboxes.desk, id, 'sandboxForward', { port }, { by: caller.name, signal })
  const cookie = shown.isNew
    ? `${tokenName}=${encodeURIComponent(shown.token)}; Path=${prefix}; HttpOnly; SameSite=Lax${'encrypted' in request.socket ? '; Secure' : ''}`
    : undefined
  return { stream, path: shown.path, headers: shown.headers, cookie }
}

/** The token that a request shows, and the request without it. */
function tokenOf(request: IncomingMessage, path: string) {
  const headers = withoutHops(request.headers)
  headers.host = request.headers.host ?? 'sandbox'
  headers['x-forwarded-host'] = request.headers.host ?? ''
  headers['x-forwarded-proto'] = 'encrypted' in request.socket ? 'https' : 'http'
  const url = new URL(path, 'http://sandbox')
  const inQuery = url.searchParams.get(tokenName)
  if (inQuery !== null) {
    url.searchParams.delete(tokenName)
    return { token: inQuery, path: `${url.pathname}${url.search}`, headers, isNew: true }
  }
  const bearer = /^bearer (tutti_\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
  if (bearer !== undefined) {
    delete headers.authorization
    return { token: bearer, path, headers, isNew: false }
  }
  const cookies = (request.headers.cookie ?? '').split(/; */).filter((each) => each !== '')
  const kept = cookies.filter((each) => !each.startsWith(`${tokenName}=`))
  const own = cookies.find((each) => each.startsWith(`${tokenName}=`))
  if (own === undefined) {
    throw new Fault(
      'unauthenticated',
      `a token is needed: "Authorization: Bearer TOKEN", "?${tokenName}=TOKEN" once, or the cookie ${tokenName}`,
    )
  }
  if (kept.length > 0) headers.cookie = kept.join('; ')
  else delete headers.cookie
  return { token: decode(own.slice(tokenName.length + 1)), path, headers, isNew: false }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** Headers that are about one connection only (RFC 9110, 7.6.1). */
const hops = ['connection', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade']

function withoutHops(headers: IncomingMessage['headers']): Record<string, string | string[]> {
  const named = String(headers.connection ?? '')
    .toLowerCase()
    .split(/, */)
  return Object.fromEntries(
    Object.entries(headers).filter(
      (entry): entry is [string, string | string[]] =>
        entry[1] !== undefined && !hops.includes(entry[0]) && !named.includes(entry[0]),
    ),
  )
}

function refuse(response: ServerResponse, thrown: unknown): void {
  if (response.headersSent) return void response.destroy()
  const fault = Fault.from(thrown)
  response.writeHead(statusOf[fault.code], { 'content-type': 'application/problem+json' })
  response.end(JSON.stringify(problemOf(fault)))
}

function refuseUpgrade(socket: Duplex, thrown: unknown): void {
  const fault = Fault.from(thrown)
  const body = JSON.stringify(problemOf(fault))
  socket.end(
    `HTTP/1.1 ${statusOf[fault.code]} Refused\r\nContent-Type: application/problem+json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  )
}
