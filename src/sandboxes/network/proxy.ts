import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { pipeline } from 'node:stream/promises'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { sentence } from '../../model/fault.ts'
import { mostBytes, nameSaid } from './names.ts'
import type { Place } from './place.ts'
import type { Resolve } from './resolve.ts'
import { insideReason } from './resolver.ts'

/**
 * The way out for connections that only their name can judge. The client believes that it reached its destination; here the
 * name it says is read, judged and looked up anew, and the connection goes to what *we* found: an address that the guest
 * made up, or was made to believe, leads nowhere else. Nothing of TLS is opened.
 */
export interface EgressProxy extends AsyncDisposable {
  readonly port: number
}

export interface ProxyOptions {
  host: string
  clock: Clock
  log: Log
  resolve: Resolve
  /** Whose connection it is; anybody else's is dropped. */
  placeOf(socket: Socket): Place | undefined
  /** Where the client meant to go. */
  destinationOf(socket: Socket): { address: string; port: number } | undefined
}

const helloMs = 10_000
const connectMs = 10_000
const mostConnections = 2500

export async function openProxy(options: ProxyOptions): Promise<EgressProxy> {
  const stopped = new AbortController()
  const sockets = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    void carry(socket, options, stopped.signal)
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

async function carry(socket: Socket, options: ProxyOptions, stopped: AbortSignal): Promise<void> {
  const place = options.placeOf(socket)
  const meant = options.destinationOf(socket)
  if (place === undefined || meant === undefined) return void socket.resetAndDestroy()
  const deny = (reason: string, name = meant.address): void => {
    const protocol = name === meant.address ? '/tcp' : ''
    place.denials.note({ destination: `${name}:${meant.port}${protocol}`, reason })
    socket.resetAndDestroy()
  }
  if (!place.policy.judgesNames) return deny(place.policy.whyNot(meant.address))
  // A slot that waits for a name counts as well, or silent connections would be free.
  const carried = { name: '', address: '', cut: () => void socket.resetAndDestroy() }
  if (place.carried.size >= mostConnections) return deny(`it has ${mostConnections} connections already`)
  place.carried.add(carried)
  try {
    const said = await readName(socket, options.clock)
    if (said.kind !== 'name')
      return deny(`${place.policy.whyNot(meant.address)}, and ${said.kind === 'none' ? said.why : 'it named no host'}`)
    const name = said.name.toLowerCase()
    if (!place.policy.mayAsk(name)) return deny(place.policy.whyNotName(name), name)
    const found = await lookUp(name, options, stopped)
    const address = found.find((one) => place.policy.mayStandFor(one.address) && !isOurs(one.address))?.address
    if (found.length === 0) return deny(`the name "${name}" has no IPv4 address`, name)
    if (address === undefined) return deny(insideReason(name, found), name)
    // The policy may have changed while we looked.
    if (!place.policy.mayAsk(name)) return deny(place.policy.whyNotName(name), name)
    Object.assign(carried, { name, address })
    await join(socket, { address, port: meant.port }, said.bytes, carried, options.clock)
  } finally {
    place.carried.delete(carried)
  }
}

async function readName(socket: Socket, clock: Clock) {
  using limit = deadline(clock, helloMs)
  let bytes = Buffer.alloc(0)
  limit.signal.addEventListener('abort', () => socket.emit('quiet'))
  for (;;) {
    const chunk = await nextChunk(socket)
    if (chunk === undefined) return { kind: 'none' as const, why: 'it named no host in time' }
    bytes = Buffer.concat([bytes, chunk])
    const said = nameSaid(bytes.subarray(0, mostBytes))
    if (said.kind !== 'more') return { ...said, bytes }
  }
}

/** What arrived, or undefined when nothing more will. */
async function nextChunk(socket: Socket): Promise<Buffer | undefined> {
  const chunk = socket.read() as Buffer | null
  if (chunk !== null) return chunk
  if (socket.destroyed || socket.readableEnded) return undefined
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const go = () => resolve(true)
  const stop = () => resolve(false)
  socket.on('readable', go).on('end', stop).on('close', stop).on('quiet', stop)
  const isMore = await promise
  socket.off('readable', go).off('end', stop).off('close', stop).off('quiet', stop)
  return isMore ? ((socket.read() as Buffer | null) ?? (socket.readableEnded ? undefined : Buffer.alloc(0))) : undefined
}

async function lookUp(name: string, { clock, resolve }: ProxyOptions, stopped: AbortSignal) {
  using limit = deadline(clock, connectMs, stopped)
  return (await resolve(name, { signal: limit.signal }).catch(() => ({ addresses: [] }))).addresses
}

async function join(
  socket: Socket,
  to: { address: string; port: number },
  first: Buffer,
  carried: { cut(): void },
  clock: Clock,
): Promise<void> {
  const upstream = connect({ host: to.address, port: to.port, allowHalfOpen: true })
  const cut = () => {
    socket.resetAndDestroy()
    upstream.resetAndDestroy()
  }
  carried.cut = cut
  socket.once('close', () => upstream.destroyed || upstream.destroySoon())
  upstream.on('error', () => {})
  try {
    using limit = deadline(clock, connectMs)
    await once(upstream, 'connect', { signal: limit.signal })
    upstream.write(first)
    await Promise.all([pipeline(socket, upstream), pipeline(upstream, socket)])
  } catch (error) {
    cut()
    throw error
  }
}

/** The host's own addresses, whatever they are today. */
export function isOurs(address: string): boolean {
  return Object.values(networkInterfaces()).some((list) => list?.some((entry) => entry.address === address))
}
