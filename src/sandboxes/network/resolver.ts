import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import dns, { type Packet } from 'dns-packet'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Place } from './place.ts'
import type { Resolve } from './resolve.ts'

/**
 * The nameserver of sandboxes. It answers for names that the asking sandbox may reach and refuses all others without
 * passing them on, so that nothing can be told to the world by asking for names. Only IPv4 addresses are answered.
 */
export interface NameServer extends AsyncDisposable {
  readonly port: number
}

export interface AnswerOptions {
  clock: Clock
  resolve: Resolve
}

interface Options extends AnswerOptions {
  host: string
  /** Whose address it is; nothing is answered to anybody else. */
  placeAt(address: string): Place | undefined
}

const lookupMs = 8000
const mostLookups = 100
const mostTtl = 300
const mostTcpConnections = 500
const idleMs = 10_000

export async function openNameServer(options: Options): Promise<NameServer> {
  const { host, clock, placeAt } = options
  const stopped = new AbortController()
  const answer = (bytes: Buffer, from: string) => answerQuery(bytes, placeAt(from), options, stopped.signal)
  const tcp = createServer((socket) => {
    const from = socket.remoteAddress ?? ''
    void serveTcp(socket, (bytes) => answer(bytes, from), clock).catch(() => socket.destroy())
  })
  tcp.maxConnections = mostTcpConnections
  const sockets = new Set<Socket>()
  tcp.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  const port = await listenOnBoth()

  async function listenOnBoth(): Promise<number> {
    tcp.listen(0, host)
    await once(tcp, 'listening')
    return (tcp.address() as { port: number }).port
  }

  const udp = createSocket('udp4')
  udp.on('error', () => {})
  udp.on('message', (bytes, from) => {
    void answer(bytes, from.address).then((reply) => {
      if (reply !== undefined && !stopped.signal.aborted) udp.send(reply, from.port, from.address, () => {})
    })
  })
  udp.bind(port, host)
  await once(udp, 'listening')
  return {
    port,
    async [Symbol.asyncDispose]() {
      stopped.abort()
      udp.close()
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => tcp.close(resolve))
    },
  }
}

/** Messages one after the other, each behind its length (RFC 1035, 4.2.2). */
export async function serveTcp(
  socket: Socket,
  answer: (bytes: Buffer) => Promise<Buffer | undefined>,
  clock: Clock,
): Promise<void> {
  socket.on('error', () => {})
  let waiting = Buffer.alloc(0)
  using idle = deadline(clock, idleMs)
  idle.signal.addEventListener('abort', () => socket.destroy())
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    waiting = Buffer.concat([waiting, chunk])
    while (waiting.length >= 2 && waiting.length >= 2 + waiting.readUInt16BE(0)) {
      const length = waiting.readUInt16BE(0)
      const reply = await answer(waiting.subarray(2, 2 + length))
      waiting = waiting.subarray(2 + length)
      if (reply === undefined) return void socket.destroy()
      const size = Buffer.alloc(2)
      size.writeUInt16BE(reply.length)
      socket.write(Buffer.concat([size, reply]))
    }
  }
}

export async function answerQuery(
  bytes: Buffer,
  place: Place | undefined,
  { clock, resolve }: AnswerOptions,
  stopped: AbortSignal,
): Promise<Buffer | undefined> {
  const query = readQuery(bytes)
  const question = query?.questions?.[0]
  if (place === undefined || query === undefined || question === undefined) return undefined
  const { name, type } = question
  if (!place.policy.mayAsk(name)) {
    place.denials.note({ destination: `${printable(name)}:53`, reason: place.policy.whyNotName(printable(name)) })
    return reply(query, 'REFUSED')
  }
  if (type !== 'A') return reply(query, 'NOERROR')
  if (place.lookups >= mostLookups) return reply(query, 'SERVFAIL')
  place.lookups += 1
  try {
    using limit = deadline(clock, lookupMs, stopped)
    const { exists, addresses } = await resolve(name.toLowerCase(), { signal: limit.signal })
    const { policy } = place
    const outside = addresses.filter(({ address }) => policy.mayStandFor(address))
    if (outside.length < addresses.length && outside.length === 0)
      place.denials.note({ destination: `${printable(name)}:53`, reason: insideReason(printable(name), addresses) })
    const answers = outside.slice(0, 20).map(({ address, ttl }) => ({
      ...{ type: 'A' as const, class: 'IN' as const, name, data: address, ttl: Math.min(ttl, mostTtl) },
    }))
    return reply(query, exists ? 'NOERROR' : 'NXDOMAIN', answers)
  } catch {
    return reply(query, 'SERVFAIL')
  } finally {
    place.lookups -= 1
  }
}

export function insideReason(name: string, addresses: readonly { address: string }[]): string {
  return `the name "${name}" stands for ${addresses[0]?.address}, which is inside a network that no rule opens`
}

function readQuery(bytes: Buffer): Packet | undefined {
  try {
    const packet = dns.decode(bytes)
    return packet.type === 'query' && packet.questions?.length === 1 ? packet : undefined
  } catch {
    return undefined
  }
}

function reply(query: Packet, code: keyof typeof codes, answers: dns.Answer[] = []): Buffer {
  const { id = 0, flags = 0, questions = [] } = query
  const flagsOut = (flags & dns.RECURSION_DESIRED) | dns.RECURSION_AVAILABLE | codes[code]
  return dns.encode({ type: 'response', id, flags: flagsOut, questions, answers })
}

const codes = { NOERROR: 0, SERVFAIL: 2, NXDOMAIN: 3, REFUSED: 5 } as const

function printable(name: string): string {
  return name.replace(/[^\x21-\x7e]/g, '?').slice(0, 253)
}
