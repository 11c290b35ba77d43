import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import type { WebSocket } from 'ws'
import type { ZodType } from 'zod'

/** What the server needs to know of one endpoint; the contract's endpoints are of this shape. */
export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** With `:name` for parameters. */
  path: string
  /** Who may call it; `public` for everybody. */
  role: string
  params?: ZodType | undefined
  query?: ZodType | undefined
  body?: ZodType | undefined
  /** The body is bytes, read by the handler from `raw` as they come. */
  upload?: true | undefined
  /** How the answer comes when it is not one JSON document. */
  stream?: 'octets' | 'frames' | 'events' | 'websocket' | undefined
}

/** Who is asking, as `authenticate` worked out. */
export interface Caller {
  name: string
  roles: readonly string[]
}

/** A request whose parts have been parsed by the route's schemas. */
export interface ParsedRequest {
  params: unknown
  query: unknown
  body: unknown
  caller: Caller
  raw: IncomingMessage
  /** Aborts when the client has gone. */
  signal: AbortSignal
}

export type Handler = (request: ParsedRequest) => Promise<unknown>
export type SocketHandler = (request: SocketRequest, socket: WebSocket) => Promise<void>

export interface SocketRequest extends ParsedRequest {
  /** Asks once more who this is and whether they may: a socket may outlive its token. Throws as at the first time. */
  admitAgain(): Caller
}

/** A handler returns one of these where the answer is a stream. */
export class OctetAnswer {
  readonly body: Readable
  readonly contentType: string

  constructor(body: Readable, contentType = 'application/octet-stream') {
    this.body = body
    this.contentType = contentType
  }
}

export interface ServerSentEvent {
  id?: string
  event: string
  data: unknown
}

export class EventAnswer {
  readonly events: AsyncIterable<ServerSentEvent>

  constructor(events: AsyncIterable<ServerSentEvent>) {
    this.events = events
  }
}
