import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { type Clock, deadline } from '../../../kit/clock.ts'
import { sentence } from '../../../model/fault.ts'
import { type CarryOptions, carry, nextChunk } from '../carry.ts'
import { guest } from '../namespace/layout.ts'
import type { Place } from '../place.ts'
import { answerQuery, serveTcp } from '../resolver.ts'
import { Hello, mostHello } from './island.ts'

/** The agent's end of the Unix socket from the island: each connection says whose it is, and is carried, answered or dropped. */
export async function openRelay(
  path: string,
  options: CarryOptions & { placeAt(source: string): Place | undefined },
): Promise<AsyncDisposable> {
  const stopped = new AbortController()
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    void serve(socket, options, stopped.signal)
      .catch((error: unknown) => options.log.debug({ error: sentence(error) }, 'a connection of a sandbox broke'))
      .finally(() => socket.destroySoon())
  })
  await rm(path, { force: true })
  server.listen(path)
  await once(server, 'listening')
  return {
    async [Symbol.asyncDispose]() {
      stopped.abort()
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function serve(
  socket: Socket,
  options: CarryOptions & { placeAt(source: string): Place | undefined },
  stopped: AbortSignal,
): Promise<void> {
  const said = await readHello(socket, options.clock)
  const place = said === undefined ? undefined : options.placeAt(said.source)
  if (said === undefined || place === undefined) return void socket.destroy()
  const answer = (bytes: Buffer) => answerQuery(bytes, place, options, stopped)
  if ('query' in said) {
    const reply = await answer(Buffer.from(said.query, 'base64'))
    return void socket.end(reply ?? Buffer.alloc(0))
  }
  if (said.address === guest.gateway && said.port === 53) return serveTcp(socket, answer, options.clock)
  await carry(socket, place, said, options, stopped)
}

async function readHello(socket: Socket, clock: Clock): Promise<Hello | undefined> {
  using limit = deadline(clock, 5000)
  let bytes = Buffer.alloc(0)
  while (!bytes.includes(10)) {
    const chunk = await nextChunk(socket, limit.signal)
    if (chunk === undefined || bytes.length > mostHello) return undefined
    bytes = Buffer.concat([bytes, chunk])
  }
  const end = bytes.indexOf(10)
  if (bytes.length > end + 1) socket.unshift(bytes.subarray(end + 1))
  return Hello.parse(JSON.parse(bytes.toString('utf8', 0, end)))
}
