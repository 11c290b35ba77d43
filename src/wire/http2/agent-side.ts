import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'
import http2 from 'node:http2'
import type { Duplex } from 'node:stream'
import { finished } from 'node:stream/promises'
import { type Clock, deadline } from '../../kit/clock.ts'
import { type Log, silentLog } from '../../kit/log.ts'
import { Fault } from '../../model/fault.ts'
import { faultLine, okLine } from '../answer.ts'
import { Conversation } from '../conversation.ts'
import { parseLine } from '../lines.ts'
import type { ControlLink, StreamService } from '../link.ts'
import { type AgentMessage, ControlMessage } from '../messages.ts'
import { byteStream, resetStream } from './byte-stream.ts'
import { type Address, addressText, dialTls } from './dial.ts'
import { readHead } from './head.ts'
import type { Identity } from './identity.ts'
import { breakSession, endSession, goawayReason, watchPeer } from './session.ts'
import { connectionWindowBytes, conversationPath, maxHeadBytes, servicePrefix, sessionOptions } from './settings.ts'

/**
 * The agent's end: it dials out, so that it works from behind any NAT, proves itself with its certificate, and then
 * serves HTTP/2 on the socket it dialled. Resolves when the control plane has opened the conversation; rejects with a
 * Fault that says whether to try again (`unavailable`) or to join again (`unauthenticated`).
 */
export async function dialControl(options: DialOptions): Promise<ControlLink> {
  const { address, identity, services, clock, signal, log = silentLog, withinMs = 20_000 } = options
  using patience = deadline(clock, withinMs, signal)
  const socket = await dialTls({ address, identity, signal: patience.signal })
  const session = http2.performServerHandshake(socket, {
    ...sessionOptions,
    // The control plane is who we serve: that it gives up many streams at once is no attack.
    ...{ streamResetBurst: 100_000, streamResetRate: 10_000 },
  })
  session.setLocalWindowSize(connectionWindowBytes)
  session.on('error', (error) => log.debug({ error }, 'the connection to the control plane broke'))
  socket.on('error', () => {})
  try {
    const stream = await conversationOf(session, { address, services, log, signal: patience.signal })
    void watchPeer(session, { clock })
    return new Http2ControlLink({ session, stream, address, clock })
  } catch (error) {
    breakSession(session)
    throw error
  }
}

export interface DialOptions {
  address: Address
  identity: Identity
  services: Readonly<Record<string, StreamService>>
  clock: Clock
  log?: Log
  /** The whole of connecting may take this long. */
  withinMs?: number
  /** Abort ends dialling; once resolved, dispose of the link instead. */
  signal: AbortSignal
}

class Http2ControlLink implements ControlLink {
  readonly messages: AsyncIterable<ControlMessage>
  readonly #conversation: Conversation<ControlMessage, AgentMessage>
  readonly #stream: Duplex
  readonly #session: ServerHttp2Session
  readonly #clock: Clock

  constructor({ session, stream, address, clock }: LinkParts) {
    const peer = `the control plane at ${addressText(address)}`
    const lost = () => new Fault('unavailable', `the connection to ${peer} was lost`)
    this.#session = session
    this.#clock = clock
    this.#stream = byteStream(stream, { rest: Buffer.alloc(0), lost })
    this.#conversation = new Conversation(this.#stream, { schema: ControlMessage, peer })
    this.messages = this.#conversation.messages()
    this.#stream.once('close', () => void endSession(session, { clock }))
    this.#stream.once('end', () => this.#stream.end())
  }

  async send(message: AgentMessage): Promise<void> {
    await this.#conversation.send(message)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stream.end()
    await endSession(this.#session, { clock: this.#clock })
  }
}

interface LinkParts {
  session: ServerHttp2Session
  stream: ServerHttp2Stream
  address: Address
  clock: Clock
}

/** Serves every stream of the session; resolves with the first one that is the conversation. */
function conversationOf(session: ServerHttp2Session, options: ServeOptions): Promise<ServerHttp2Stream> {
  const { address, signal } = options
  let begun = false
  return new Promise((resolve, reject) => {
    session.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      const path = headers[':path'] ?? ''
      if (path.startsWith(servicePrefix)) return void serve(stream, path.slice(servicePrefix.length), options)
      if (path !== conversationPath || begun) return stream.respond({ ':status': 404 }, { endStream: true })
      begun = true
      stream.respond({ ':status': 200 })
      resolve(stream)
    })
    session.on('goaway', (code, _last, data) => {
      const reason = goawayReason(code, data as Buffer | undefined)
      if (reason === undefined) return
      reject(new Fault('unauthenticated', `the control plane at ${addressText(address)} refused this agent: ${reason}`))
    })
    session.on('close', () =>
      reject(new Fault('unavailable', `the control plane at ${addressText(address)} closed the connection`)),
    )
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

interface ServeOptions {
  address: Address
  services: Readonly<Record<string, StreamService>>
  log: Log
  signal: AbortSignal
}

/** One service stream from its request to its end. Never rejects: what goes wrong is the answer, or a reset. */
async function serve(inner: ServerHttp2Stream, path: string, { services, log }: ServeOptions): Promise<void> {
  const lost = () => new Fault('unavailable', 'the control plane broke the stream off, or its connection was lost')
  inner.respond({ ':status': 200 })
  let isAnswered = false
  try {
    const { line, rest } = await readHead(inner, { maxBytes: maxHeadBytes, lost })
    const request = parseLine(line, 'the request')
    const name = decodeURIComponent(path)
    const service = Object.hasOwn(services, name) ? services[name] : undefined
    if (!service)
      throw new Fault(
        'not_found',
        `the agent has no service ${name.slice(0, 100)}; it may be older than the control plane`,
      )
    const answer = () => {
      isAnswered = true
      inner.write(okLine)
    }
    const outer = byteStream(inner, { rest, lost, onUse: answer })
    const gone = new AbortController()
    outer.once('close', () => gone.abort(lost()))
    await service(request, outer, { signal: gone.signal })
    if (!outer.writableEnded && !outer.destroyed) outer.end()
    // All of it is on its way before the stream closes; what the other side still sends is no longer wanted.
    await finished(inner, { readable: false })
    inner.close(http2.constants.NGHTTP2_NO_ERROR)
  } catch (error) {
    log.debug({ error, path }, 'a service stream ended with an error')
    if (isAnswered || inner.destroyed) return resetStream(inner, http2.constants.NGHTTP2_INTERNAL_ERROR)
    inner.end(faultLine(error))
  }
}
