import type { z } from 'zod'
import type { FaultCode } from '../model/fault.ts'
import type { AccessRole } from '../model/records.ts'

/**
 * One thing that the API can be asked, as data. The HTTP server, the typed client, the OpenAPI document and the docs
 * are readers of these values; nothing about a request is written down twice.
 */
export interface Endpoint {
  readonly method: Method
  /** Complete, with `:name` for parameters. */
  readonly path: `/v1/${string}`
  /** What the caller's token must allow; `agent`: a client certificate of a node; `public`: nothing. */
  readonly role: EndpointRole
  /** One sentence for the documentation. */
  readonly summary: string
  readonly params?: z.ZodObject
  readonly query?: z.ZodObject
  readonly body?: z.ZodType
  /** The body is bytes as they are, of any length, instead of one JSON document. */
  readonly upload?: true
  /** What comes back as JSON; absent for streams and where there is nothing to say (204). */
  readonly answer?: z.ZodType
  /** What the caller must expect beyond `invalid`, `unauthenticated`, `denied`, `unavailable` and `internal`. */
  readonly faults: readonly FaultCode[]
  readonly stream?: StreamKind
  /** What comes on the stream, for the documentation. */
  readonly says?: string
}

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
export type EndpointRole = AccessRole | 'agent' | 'public'
/** How an answer comes that is not one JSON document: bytes as they are, server-sent events, or a WebSocket. */
export type StreamKind = 'octets' | 'events' | 'websocket'

/** States one endpoint; the types of its parts are kept for the client. */
export function endpoint<const E extends Endpoint>(value: E): E {
  return value
}
