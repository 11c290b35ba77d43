import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import http2 from 'node:http2'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import { type Clock, deadline } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { checkAnswer } from '../answer.ts'
import { Conversation } from '../conversation.ts'
import type { AgentLink } from '../link.ts'
import { AgentMessage, type ControlMessage } from '../messages.ts'
import { byteStream, resetStream } from './byte-stream.ts'
import { readHead } from './head.ts'
import { readPeer } from './peer.ts'
import { breakSession, endSession, refuse } from './session.ts'
import {
  connectionWindowBytes,
  conversationPath,
  maxHeadBytes,
  servicePrefix,
  sessionOptions,
  tcpKeepAliveMs,
} from './settings.ts'

/**
 * The control plane's end of an agent's connection. The agent dialled, so on the socket it is the client; in HTTP/2 the
 * roles are turned round, and the control plane asks. Multiplexing, flow control and cancellation are HTTP/2's.
 *
 * Resolves when the agent has answered the conversation. An agent whose certificate does not hold is told why in the
 * GOAWAY that ends its connection.
 */
export async function acceptAgent(
  socket: TLSSocket,
  { clock, signal, withinMs = 10_000 }: AcceptOptions,
): Promise<AgentLink> {
  const remote = `${socket.remoteAddress ?? 'unknown'}:${socket.remotePort ?? 0}`
  let peer: AgentLink['peer']
  try {
    peer = readPeer(socket, clock.now())
  } catch (error) {
    await refuse(socket, error, { clock })
    throw error
  }
  socket.setKeepAlive(true, tcpKeepAliveMs)
  socket.setNoDelay(true)
  const session = http2.connect('https://agent', { ...sessionOptions, createConnection: () => socket })
  session.on('error', () => {})
  session.on('connect', () => session.setLocalWindowSize(connectionWindowBytes))
  try {
    using patience = deadline(clock, withinMs, signal)
    const lost = () => new Fault('unavailable', `the connection to node ${peer.node} was lost`)
    const stream = await request(session, conversationPath, { lost, signal: patience.signal })
    await answered(stream, { lost, signal: patience.signal })
    return new Http2AgentLink({ session, stream, peer, remote, clock })
  } catch (error) {
    breakSession(session)
    throw error
  }
}

export interface AcceptOptions {
  clock: Clock
  /** An agent that has not begun the conversation by then is cut off. */
  withinMs?: number
  /** Abort ends the wait and the connection; once resolved, dispose of the link instead. */
  signal: AbortSignal
}

class Http2AgentLink implements AgentLink {
  readonly peer: AgentLink['peer']
  readonly remote: string
  readonly messages: AsyncIterable<AgentMessage>
  readonly #conversation: Conversation<AgentMessage, ControlMessage>
  readonly #stream: Duplex
  readonly #session: ClientHttp2Session
  readonly #clock: Clock

  constructor({ session, stream, peer, remote, clock }: LinkParts) {
    this.peer = peer
    this.remote = remote
    this.#session = session
    this.#clock = clock
    this.#stream = byteStream(stream, { rest: Buffer.alloc(0), lost: this.#lost })
    this.#conversation = new Conversation(this.#stream, { schema: AgentMessage, peer: `node ${peer.node}` })
    this.messages = this.#conversation.messages()
    // A conversation that is over, however it ended, is a connection that is over.
    this.#stream.once('close', () => void endSession(session, { clock }))
    this.#stream.once('end', () => this.#stream.end())
  }

  async send(message: ControlMessage): Promise<void> {
    await this.#conversation.send(message)
  }

  async open(service: string, ask: unknown, { signal }: { signal: AbortSignal }): Promise<Duplex> {
    const path = `${servicePrefix}${encodeURIComponent(service)}`
    const line = Buffer.from(`${JSON.stringify(ask)}\n`)
    if (line.length > maxHeadBytes) {
      throw new Fault('invalid', `the request to ${service} is ${line.length} bytes long; the limit is ${maxHeadBytes}`)
    }
    const lost = () =>
      new Fault('unavailable', `node ${this.peer.node} broke off the ${service} stream, or its connection was lost`)
    const inner = await request(this.#session, path, { lost, signal, first: line })
    try {
      const head = await readHead(inner, { maxBytes: maxHeadBytes, lost, signal })
      checkAnswer(head.line, service)
      const outer = byteStream(inner, { rest: head.rest, lost })
      abortWith(outer, signal)
      return outer
    } catch (error) {
      resetStream(inner, http2.constants.NGHTTP2_CANCEL)
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stream.end()
    await endSession(this.#session, { clock: this.#clock })
  }

  readonly #lost = () => new Fault('unavailable', `the connection to node ${this.peer.node} was lost`)
}

interface LinkParts {
  session: ClientHttp2Session
  stream: ClientHttp2Stream
  peer: AgentLink['peer']
  remote: string
  clock: Clock
}

async function request(session: ClientHttp2Session, path: string, options: RequestOptions): Promise<ClientHttp2Stream> {
  options.signal.throwIfAborted()
  if (session.destroyed || session.closed) throw options.lost()
  const stream = session.request({ ':method': 'POST', ':path': path }, { endStream: false })
  stream.on('error', () => {})
  if (options.first) stream.write(options.first)
  return stream
}

interface RequestOptions {
  lost: () => Fault
  signal: AbortSignal
  /** Bytes to send at once. */
  first?: Buffer
}

/** Waits for the response headers. */
function answered(
  stream: ClientHttp2Stream,
  { lost, signal }: { lost: () => Fault; signal: AbortSignal },
): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (outcome: () => void) => {
      stream.off('response', onResponse).off('close', onClose)
      signal.removeEventListener('abort', onAbort)
      outcome()
    }
    const onResponse = (headers: { ':status'?: number | undefined }) =>
      settle(() => (headers[':status'] === 200 ? resolve() : reject(lost())))
    const onClose = () => settle(() => reject(lost()))
    const onAbort = () => settle(() => reject(signal.reason))
    stream.on('response', onResponse).on('close', onClose)
    signal.addEventListener('abort', onAbort, { once: true })
  })
}

function abortWith(stream: Duplex, signal: AbortSignal): void {
  const abort = () => {
    stream.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
  }
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  stream.once('close', () => signal.removeEventListener('abort', abort))
}
