import type { Readable } from 'node:stream'
import type { WebSocket } from 'ws'

/** How a client reaches a control plane. Over the network it is `nodeTransport`; tests hand in what they like. */
export interface Transport extends AsyncDisposable {
  /** For people: where requests go. */
  readonly url: string
  /** Rejects with a Fault `unavailable` when no answer came. Aborting `signal` ends the request and its answer. */
  request(request: TransportRequest): Promise<TransportReply>
  /** Opens a WebSocket; rejects with the Fault that the server answered. */
  socket(path: string, options: { signal?: AbortSignal | undefined }): Promise<TransportSocket>
}

export interface TransportSocket {
  readonly socket: WebSocket
  /** Whether the process stays alive for it, which it does at first. */
  holdProcess(hold: boolean): void
}

export interface TransportRequest {
  method: string
  /** With its query. */
  path: string
  body?: string | undefined
  /** Bytes as they come, instead of a body. */
  upload?: Readable | undefined
  /** Longest silence before and during the answer; 0 without a limit. */
  quietMs: number
  signal?: AbortSignal | undefined
}

export interface TransportReply {
  status: number
  body: Readable
}
