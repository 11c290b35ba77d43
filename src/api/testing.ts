import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream'
import { WebSocket } from 'ws'
import { type Client, createClient } from '../client/client.ts'
import { readJson } from '../client/read-reply.ts'
import type { Transport } from '../client/transport.ts'
import { createAccessToken } from '../control/actions/tokens.ts'
import { createAuthority } from '../control/authority/authority.ts'
import { openSandboxWorld, type SandboxWorld } from '../control/sandboxes/testing.ts'
import { systemClock } from '../kit/system-clock.ts'
import { accessRoles } from '../model/records.ts'
import type { Engine } from '../store/engine.ts'
import { createApi } from './api.ts'

/** The real API over real sockets, before nodes that answer as agents do; for tests of what is above it. */
export interface SandboxApi extends AsyncDisposable {
  world: SandboxWorld
  url: string
  token: string
  client: Client
}

export async function openSandboxApi({ engine }: { engine?: Engine } = {}): Promise<SandboxApi> {
  await using undo = new AsyncDisposableStack()
  const world = undo.use(await openSandboxWorld({ clock: systemClock, debug: false, ...(engine ? { engine } : {}) }))
  const { control, sessions, sandboxes } = world
  const authority = await createAuthority({ name: 'test', clock: systemClock, random: world.random })
  const server = createServer()
  const api = await createApi({ server, control, authority, sessions, sandboxes, version: '0.0.0' })
  undo.defer(() => api.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  undo.defer(() => void server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const { token } = await createAccessToken(control, {
    by: 'test',
    name: 'all',
    roles: [...accessRoles],
    expiresInMs: null,
  })
  const client = createClient({ transport: plainTransport(url, token), clock: systemClock })
  const owned = undo.move()
  return { world, url, token, client, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** As `nodeTransport`, without TLS. */
export function plainTransport(url: string, token: string): Transport {
  const headers = { authorization: `Bearer ${token}` }
  return {
    url,
    request: ({ method, path, body, upload, signal }) =>
      new Promise((resolve, reject) => {
        const type = upload ? 'application/octet-stream' : 'application/json'
        const asked = httpRequest(`${url}${path}`, {
          method,
          headers: { ...headers, ...(body === undefined && !upload ? {} : { 'content-type': type }) },
          ...(signal ? { signal } : {}),
        })
        asked.once('error', reject)
        asked.once('response', (response) => resolve({ status: response.statusCode ?? 0, body: response }))
        if (upload) pipeline(upload, asked, () => {})
        else asked.end(body)
      }),
    socket: (path, { signal }) => {
      const socket = new WebSocket(`${url.replace('http', 'ws')}${path}`, { headers, perMessageDeflate: false })
      signal?.addEventListener('abort', () => socket.terminate(), { once: true })
      return new Promise((resolve, reject) => {
        socket.once('error', reject)
        socket.once('unexpected-response', (_asked, response: IncomingMessage) => {
          readJson({ status: response.statusCode ?? 500, body: response }).then(() => {}, reject)
        })
        socket.once('open', () => resolve({ socket, holdProcess: () => {} }))
      })
    },
    [Symbol.asyncDispose]: async () => {},
  }
}
