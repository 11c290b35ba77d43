import type { Server as HttpServer } from 'node:http'
import type { Socket } from 'node:net'
import tls, { type TLSSocket } from 'node:tls'
import type { Clock } from '../../kit/clock.ts'
import { type Log, silentLog } from '../../kit/log.ts'
import { sentence } from '../../model/fault.ts'
import { acceptAgent } from '../../wire/http2/control-side.ts'
import type { AgentLink } from '../../wire/link.ts'
import { agentProtocol } from '../../wire/messages.ts'
import { type ListenAddress, listen } from './listen.ts'

/**
 * The one port: a TLS listener that tells agents from API clients by the protocol they ask for in the handshake (ALPN).
 * Agents must show a certificate of our authority, and are told why when they are refused; everybody else is handed
 * to the HTTP server. Whoever says nothing, or nothing sensible, or too slowly, is cut off, and nobody else notices.
 *
 * The certificate is asked for from everyone and judged per protocol, because TLS asks before it knows the protocol.
 */
export async function openPort(options: PortOptions): Promise<Port> {
  const { host, port, http, onAgent, clock, log = silentLog, limits } = options
  const { handshakeMs, maxConnections } = { ...portLimits, ...limits }
  const closing = new AbortController()
  const sockets = new Set<Socket>()
  const server = tls.createServer({
    ...secureContext(options),
    ALPNProtocols: [agentProtocol, 'http/1.1'],
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: handshakeMs,
  })
  server.maxConnections = maxConnections
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  server.on('tlsClientError', (error, socket) => {
    log.debug({ remote: socket.remoteAddress, error: error.message }, 'a TLS handshake failed')
    socket.destroy()
  })
  server.on('drop', (dropped) =>
    log.warn({ remote: dropped?.remoteAddress, maxConnections }, 'too many connections; one was turned away'),
  )
  server.on('secureConnection', (socket) => {
    socket.on('error', (error) =>
      log.debug({ remote: socket.remoteAddress, error: error.message }, 'a connection broke'),
    )
    if (socket.alpnProtocol !== agentProtocol) return void http.emit('connection', socket)
    void receiveAgent(socket)
  })

  async function receiveAgent(socket: TLSSocket): Promise<void> {
    const remote = socket.remoteAddress
    try {
      const link = await acceptAgent(socket, { clock, signal: closing.signal, withinMs: handshakeMs })
      await onAgent(link)
    } catch (error) {
      log.info({ remote, error: sentence(error) }, 'an agent was turned away')
      socket.destroy()
    }
  }

  const actual = await listen(server, { host, port })
  return {
    host,
    port: actual,
    replaceCertificate: (replacement) => server.setSecureContext(secureContext({ ...replacement, ca: options.ca })),
    async [Symbol.asyncDispose]() {
      closing.abort(new Error('the port is closing'))
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

export interface PortOptions extends ListenAddress {
  /** PEM. */
  certificate: string
  /** PKCS#8 PEM. */
  key: string
  /** The authority's certificate, PEM: shown to clients so that they can pin it, and what agents are judged by. */
  ca: string
  /** Gets every connection that is no agent's: see `createHttpServer`. */
  http: HttpServer
  /** Gets every agent that has proved itself and begun the conversation; owns the link from then on. */
  onAgent: (link: AgentLink) => void | Promise<void>
  clock: Clock
  log?: Log
  limits?: Partial<PortLimits>
}

export interface PortLimits {
  /** TLS, and for agents the begin of the conversation, must be done within this. */
  handshakeMs: number
  maxConnections: number
}

const portLimits: PortLimits = { handshakeMs: 10_000, maxConnections: 20_000 }

/** Disposing closes the listener and every connection that came through it. */
export interface OpenPort extends AsyncDisposable {
  readonly host: string
  readonly port: number
}

export interface Port extends OpenPort {
  /** Connections made from now on see the new certificate; those that live are not disturbed. */
  replaceCertificate(replacement: { certificate: string; key: string }): void
}

function secureContext({ certificate, key, ca }: { certificate: string; key: string; ca: string }) {
  return { cert: `${certificate.trimEnd()}\n${ca}`, key, ca, minVersion: 'TLSv1.2' as const }
}
