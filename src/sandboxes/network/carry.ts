import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { pipeline } from 'node:stream/promises'
import { type Clock, deadline } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { mostBytes, nameSaid } from './names.ts'
import type { Carried, Place } from './place.ts'
import { reset } from './reset.ts'
import type { Resolve } from './resolve.ts'
import { insideReason } from './resolver.ts'

/**
 * Carries one connection of a sandbox to where it may go, or denies it. Where no range allows the address, the name that
 * the client says is read, judged and looked up anew, and the connection goes to what *we* found: an address that the guest
 * made up, or was made to believe, leads nowhere else. Nothing of TLS is opened.
 */
export interface CarryOptions {
  clock: Clock
  log: Log
  resolve: Resolve
}

const helloMs = 10_000
const connectMs = 10_000
const mostConnections = 2500

export async function carry(
  socket: Socket,
  place: Place,
  meant: { address: string; port: number },
  options: CarryOptions,
  stopped: AbortSignal,
): Promise<void> {
  const deny = (reason: string, name = meant.address): void => {
    const protocol = name === meant.address ? '/tcp' : ''
    place.denials.note({ destination: `${name}:${meant.port}${protocol}`, reason })
    reset(socket)
  }
  if (place.carried.size >= mostConnections) return deny(`it has ${mostConnections} connections already`)
  // One that waits for its name counts as well, or silent connections would be free.
  const carried: Carried = { name: '', address: '', cut: () => reset(socket) }
  place.carried.add(carried)
  try {
    if (isOurs(meant.address)) return deny(`${meant.address} is this machine, which sandboxes never reach`)
    if (place.policy.mayReach(meant.address)) {
      carried.address = meant.address
      return await join(socket, meant, Buffer.alloc(0), carried, options.clock)
    }
    if (!place.policy.judgesNames) return deny(place.policy.whyNot(meant.address))
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
    carried.name = name
    carried.address = address
    await join(socket, { address, port: meant.port }, said.bytes, carried, options.clock)
  } finally {
    place.carried.delete(carried)
  }
}

async function readName(socket: Socket, clock: Clock) {
  using limit = deadline(clock, helloMs)
  let bytes = Buffer.alloc(0)
  for (;;) {
    const chunk = await nextChunk(socket, limit.signal)
    if (chunk === undefined) return { kind: 'none' as const, why: 'it named no host in time' }
    bytes = Buffer.concat([bytes, chunk])
    const said = nameSaid(bytes.subarray(0, mostBytes))
    if (said.kind !== 'more') return { ...said, bytes }
  }
}

/** What arrived on a socket that nobody else reads; undefined when nothing more will, or not in time. */
export async function nextChunk(socket: Socket, signal: AbortSignal): Promise<Buffer | undefined> {
  for (;;) {
    const chunk = socket.read() as Buffer | null
    if (chunk !== null) return chunk
    if (socket.destroyed || socket.readableEnded || signal.aborted) return undefined
    const { promise, resolve } = Promise.withResolvers<void>()
    const wake = () => resolve()
    for (const event of ['readable', 'end', 'close'] as const) socket.on(event, wake)
    signal.addEventListener('abort', wake)
    await promise
    for (const event of ['readable', 'end', 'close'] as const) socket.off(event, wake)
    signal.removeEventListener('abort', wake)
  }
}

async function lookUp(name: string, { clock, resolve }: CarryOptions, stopped: AbortSignal) {
  using limit = deadline(clock, connectMs, stopped)
  return (await resolve(name, { signal: limit.signal }).catch(() => ({ addresses: [] }))).addresses
}

async function join(
  socket: Socket,
  to: { address: string; port: number },
  first: Buffer,
  carried: Carried,
  clock: Clock,
): Promise<void> {
  const upstream = connect({ host: to.address, port: to.port, allowHalfOpen: true })
  const cut = () => {
    reset(socket)
    reset(upstream)
  }
  carried.cut = cut
  socket.once('close', () => upstream.destroyed || upstream.destroySoon())
  upstream.on('error', () => {})
  try {
    using limit = deadline(clock, connectMs)
    await once(upstream, 'connect', { signal: limit.signal })
    if (first.length > 0) upstream.write(first)
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
