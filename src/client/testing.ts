import { once } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { type WebSocket, WebSocketServer } from 'ws'
import { type Authority, caFingerprint, createAuthority } from '../control/authority/authority.ts'
import { issueServerCertificate } from '../control/authority/issue.ts'
import { systemClock } from '../kit/system-clock.ts'
import { systemRandom } from '../kit/system-random.ts'

/** A TLS server of an authority of its own, on loopback, that answers as a test says. */
export interface TestServer extends AsyncDisposable {
  url: string
  ca: string
  fingerprint: string
  requests: { method: string; url: string; authorization: string | undefined; body: string }[]
  /** Connections made so far. */
  connections(): number
  /** Breaks every connection that lives. */
  breakConnections(): void
}

export interface TestServerOptions {
  handle?: (request: IncomingMessage, response: ServerResponse, body: string) => void
  socket?: (socket: WebSocket, request: IncomingMessage) => void
  /** Show the authority in the chain, as the control plane does. */
  showAuthority?: boolean
}

let authority: Promise<Authority> | undefined

export async function testServer({ handle, socket, showAuthority = true }: TestServerOptions): Promise<TestServer> {
  authority ??= createAuthority({ name: 'test', clock: systemClock, random: systemRandom })
  const known = await authority
  const { certificate, key } = await issueServerCertificate({
    authority: known,
    // On purpose not the name that the client uses.
    hosts: ['control.test'],
    now: systemClock.now(),
    random: systemRandom,
  })
  const requests: TestServer['requests'] = []
  let connections = 0
  const server = createServer(
    { key, cert: showAuthority ? `${certificate}\n${known.caCertificate}` : certificate },
    (request, response) => {
      let body = ''
      request.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk
      })
      request.on('end', () => {
        const { method = '', url = '' } = request
        requests.push({ method, url, authorization: request.headers.authorization, body })
        handle?.(request, response, body)
      })
    },
  )
  server.on('secureConnection', () => {
    connections += 1
  })
  const sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', (request, stream, head) => {
    if (!socket) {
      const problem = JSON.stringify({ code: 'conflict', message: 'it is not running' })
      stream.end(`HTTP/1.1 409 Refused\r\nContent-Length: ${problem.length}\r\nConnection: close\r\n\r\n${problem}`)
      return
    }
    sockets.handleUpgrade(request, stream, head, (client) => socket(client, request))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ca: known.caCertificate,
    fingerprint: caFingerprint(known.caCertificate),
    requests,
    connections: () => connections,
    breakConnections: () => server.closeAllConnections(),
    [Symbol.asyncDispose]: async () => {
      for (const client of sockets.clients) client.terminate()
      server.closeAllConnections()
      server.close()
    },
  }
}

/** Answers with a document. */
export function reply(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}
