import type { Duplex } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import { z } from 'zod'
import type { Caller, SocketRequest } from '../http/route.ts'
import { type Clock, deadline } from '../kit/clock.ts'
import { Fault, sentence } from '../model/fault.ts'
import { encodeFrame, FrameDecoder, type FrameKind, frame } from '../wire/frames.ts'

/** Bytes that may wait in a socket before the other side is asked to pause. */
const highWaterBytes = 4 * 2 ** 20

/**
 * What comes on a WebSocket, for whoever is to hear it at the moment. While that is nobody, the socket is paused and
 * what has come already waits: frames may follow their request at once.
 */
class Inbox {
  readonly #socket: WebSocket
  readonly #waiting: Message[] = []
  #hear: ((message: Message) => void) | undefined

  constructor(socket: WebSocket) {
    this.#socket = socket
    socket.on('message', (data: RawData, isBinary: boolean) => {
      const message = { bytes: toBuffer(data), isBinary }
      if (this.#hear) return this.#hear(message)
      this.#waiting.push(message)
      socket.pause()
    })
  }

  /** From now on `hear` gets every message, or, without it, all wait. */
  tell(hear: ((message: Message) => void) | undefined): void {
    this.#hear = hear
    if (hear) this.#socket.resume()
    while (this.#hear && this.#waiting.length > 0) this.#hear(this.#waiting.shift() as Message)
  }
}

interface Message {
  bytes: Buffer
  isBinary: boolean
}

/**
 * Joins a browser's or CLI's WebSocket to an exec stream of an agent. Frames pass unchanged but for their envelope:
 * a WebSocket message is a kind byte and the payload, the stream has the length as well. A slow side slows the other.
 * Tells whether the command came to its end, so that the socket could carry another.
 */
async function relayExec(socket: WebSocket, inbox: Inbox, stream: Duplex): Promise<boolean> {
  const ended = Promise.withResolvers<void>()
  let last: FrameKind | undefined
  const fail = (error: unknown) => {
    last = frame.fault
    if (socket.readyState === socket.OPEN)
      socket.send(message(frame.fault, JSON.stringify({ code: Fault.from(error).code, message: sentence(error) })))
    ended.resolve()
  }
  inbox.tell(({ bytes, isBinary }) => {
    if (!isBinary || bytes.length === 0)
      return fail(new Fault('invalid', 'only binary frames are expected after the request'))
    if (!stream.write(encodeFrame(bytes[0] as FrameKind, bytes.subarray(1)))) {
      socket.pause()
      stream.once('drain', () => socket.resume())
    }
  })
  const onClose = () => {
    stream.destroy()
    ended.resolve()
  }
  socket.once('close', onClose)
  const decoder = new FrameDecoder()
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const { kind, payload } of decoder.push(chunk)) {
        last = kind
        socket.send(message(kind, payload), { binary: true }, () => {
          if (stream.isPaused() && socket.bufferedAmount < highWaterBytes / 2) stream.resume()
        })
      }
    } catch (error) {
      fail(error)
    }
    if (socket.bufferedAmount > highWaterBytes) stream.pause()
  })
  stream.once('error', fail)
  stream.once('end', () => ended.resolve())
  await ended.promise
  inbox.tell(undefined)
  socket.off('close', onClose)
  stream.destroy()
  return last === frame.exit
}

function message(kind: FrameKind, payload: Buffer | string): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload
  const out = Buffer.allocUnsafe(1 + body.length)
  out[0] = kind
  body.copy(out, 1)
  return out
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
}

/** How long a socket waits for its next request: shorter than whatever stands between is likely to keep it open. */
const idleMs = 30_000

/**
 * An exec WebSocket: the request, the agent's answer to it, then frames until the command has ended. One after the other,
 * if the client asked to keep it: most of a short command's time would else be a new TLS connection.
 */
export async function serveExec<Request extends { keep: boolean }>(
  { signal, admitAgain }: SocketRequest,
  socket: WebSocket,
  { clock, schema, open }: ServeExecOptions<Request>,
): Promise<void> {
  const inbox = new Inbox(socket)
  for (let isFirst = true; ; isFirst = false) {
    using patience = deadline(clock, idleMs)
    const request = await nextRequest(inbox, { isFirst, signal, within: patience.signal })
    if (request === undefined) break
    const asked = schema.safeParse(request)
    if (!asked.success) throw new Fault('invalid', `the exec request is not valid: ${z.prettifyError(asked.error)}`)
    const { keep, ...wanted } = asked.data
    const stream = await open(wanted, admitAgain())
    socket.send(JSON.stringify({ ok: true }))
    const isOver = await relayExec(socket, inbox, stream)
    if (!isOver || !keep || socket.readyState !== socket.OPEN) break
  }
  // What still comes is read and forgotten: the answer to our farewell is behind it.
  inbox.tell(() => {})
  if (socket.readyState === socket.OPEN) socket.close(1000)
}

export interface ServeExecOptions<Request> {
  clock: Clock
  schema: z.ZodType<Request>
  /** Opens the stream of one command for whoever is calling now. */
  open: (request: Omit<Request, 'keep'>, caller: Caller) => Promise<Duplex>
}

/** The next request on an exec WebSocket, as JSON text; undefined when none comes in time. */
async function nextRequest(inbox: Inbox, { isFirst, signal, within }: NextOptions): Promise<unknown> {
  const got = Promise.withResolvers<unknown>()
  inbox.tell(({ bytes, isBinary }) => {
    // Input of the command before, which ended without waiting for it.
    if (isBinary && !isFirst) return
    inbox.tell(undefined)
    try {
      if (isBinary) throw new Error('it is binary')
      got.resolve(JSON.parse(bytes.toString('utf8')))
    } catch (cause) {
      got.reject(new Fault('invalid', 'the first message must be the request as JSON text', { cause }))
    }
  })
  const onAbort = () => got.reject(signal.reason)
  signal.addEventListener('abort', onAbort, { once: true })
  within.addEventListener('abort', () => got.resolve(undefined), { once: true })
  return got.promise.finally(() => signal.removeEventListener('abort', onAbort))
}

interface NextOptions {
  isFirst: boolean
  /** The client has gone. */
  signal: AbortSignal
  /** It was waited for long enough. */
  within: AbortSignal
}
