import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { sentence } from '../../model/fault.ts'
import { type CarryOptions, carry } from './carry.ts'
import type { Place } from './place.ts'

/** Takes the connections that the packet filter leads to it. */
export interface EgressProxy extends AsyncDisposable {
  readonly port: number
}

export interface ProxyOptions extends CarryOptions {
  host: string
  /** Whose connection it is; anybody else's is dropped. */
  placeOf(socket: Socket): Place | undefined
  /** Where the client meant to go. */
  destinationOf(socket: Socket): { address: string; port: number } | undefined
}

export async function openProxy(options: ProxyOptions): Promise<EgressProxy> {
  const stopped = new AbortController()
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    const place = options.placeOf(socket)
    const meant = options.destinationOf(socket)
    if (place === undefined || meant === undefined) return void socket.resetAndDestroy()
    void carry(socket, place, meant, options, stopped.signal)
      .catch((error: unknown) => options.log.debug({ error: sentence(error) }, 'a connection of a sandbox broke'))
      .finally(() => socket.destroy())
  })
  server.listen(0, options.host)
  await once(server, 'listening')
  return {
    port: (server.address() as { port: number }).port,
    async [Symbol.asyncDispose]() {
      stopped.abort()
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
