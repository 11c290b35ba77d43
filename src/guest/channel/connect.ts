import { connect as connectSocket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { GuestChannel, GuestMetrics } from '../channel.ts'
import { attachCommand, listCommands, startCommand } from './commands.ts'
import type { encodeFields, Fields, Operation } from './fields.ts'
import { guestFiles } from './files.ts'
import { forwardPort } from './forward.ts'
import { identityFields } from './identity.ts'
import { GuestStream } from './stream.ts'
import { Wire } from './wire.ts'

export interface ConnectOptions {
  /** A stream, or the path of a Unix socket. Owned by the channel from now on. */
  socket: Duplex | string
  /** `nextToken` of the last channel to this guest; undefined for the first after it booted. */
  token: string | undefined
  random: Random
  clock: Clock
  /** Sent before all else, where the VMM wants to be told where to (`Vm.opening`). */
  opening?: string | undefined
  /** Gives up connecting; the channel itself is ended by disposing it. */
  signal: AbortSignal
}

/** Connects to the agent in a guest. Whoever was connected before is cut off; commands go on as guest/PROTOCOL.md says. */
export async function connectGuest({ socket, ...options }: ConnectOptions): Promise<GuestChannel> {
  const { signal } = options
  signal.throwIfAborted()
  const wire = await Wire.open({ ...options, socket: typeof socket === 'string' ? await dial(socket, signal) : socket })
  const ask = async (
    operation: Operation,
    fields: Parameters<typeof encodeFields>[0],
    how: { signal: AbortSignal },
  ) => {
    return await new GuestStream(wire, operation, fields, how.signal).reply(how.signal)
  }
  return {
    agentVersion: wire.agentVersion,
    nextToken: wire.nextToken,
    closed: wire.closed,
    files: guestFiles(wire),
    exec: (request, how) => startCommand(wire, request, how),
    start: (request, how) => startCommand(wire, request, how),
    attach: (pid, how) => attachCommand(wire, pid, how),
    processes: (how) => listCommands(wire, how),
    forward: (port, how) => forwardPort(wire, port, how),
    identify: async (identity, how) => void (await ask('identify', identityFields(identity), how)),
    quiesce: async ({ signal }) => {
      const stream = new GuestStream(wire, 'quiesce', {}, signal)
      wire.hush()
      await stream.reply(signal)
    },
    freeze: async ({ sync, signal }) => void (await ask('freeze', { sync }, { signal })),
    thaw: async (how) => void (await ask('thaw', {}, how)),
    shrink: async (how) => void (await ask('shrink', {}, how)),
    metrics: async (how) => metrics(await ask('metrics', {}, how)),
    [Symbol.asyncDispose]: async () => {
      wire.close()
      await wire.closed
    },
  }
}

async function dial(path: string, signal: AbortSignal): Promise<Duplex> {
  const socket = connectSocket({ path, signal })
  const connected = Promise.withResolvers<void>()
  socket.once('connect', connected.resolve)
  socket.once('error', connected.reject)
  try {
    await connected.promise
    return socket
  } catch (error) {
    socket.destroy()
    signal.throwIfAborted()
    throw new Fault('unavailable', `cannot connect to the guest agent at ${path}: ${sentence(error)}`, { cause: error })
  }
}

function metrics(fields: Fields): GuestMetrics {
  return {
    memoryTotal: fields.number('memoryTotal'),
    memoryUsed: fields.number('memoryUsed'),
    diskTotal: fields.number('diskTotal'),
    diskUsed: fields.number('diskUsed'),
    cpus: fields.number('cpus'),
    cpuMs: fields.number('cpuMs'),
    now: fields.number('time'),
    processes: fields.number('processes'),
  }
}
