import type { Server as HttpServer } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { Fault } from '../../model/fault.ts'
import { hostPort, type ListenAddress, listen } from './listen.ts'
import type { OpenPort } from './port.ts'

/**
 * The API without TLS, for tools on the same machine that cannot be taught the authority. Only ever on loopback: tokens
 * would otherwise cross the network in the clear.
 */
export async function openPlainPort({ host, port, http, maxConnections = 1000 }: PlainOptions): Promise<OpenPort> {
  if (!isLoopback(host)) {
    throw new Fault(
      'invalid',
      `cannot serve plain HTTP on ${hostPort({ host, port })}: only on 127.0.0.1, ::1 or localhost; use the TLS port instead`,
    )
  }
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    http.emit('connection', socket)
  })
  server.maxConnections = maxConnections
  const actual = await listen(server, { host, port })
  return {
    host,
    port: actual,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

export interface PlainOptions extends ListenAddress {
  http: HttpServer
  maxConnections?: number
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}
