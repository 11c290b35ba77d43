import type { Duplex } from 'node:stream'
import type { AgentMessage, ControlMessage } from './messages.ts'

/**
 * The connection, as each end sees it. Over the network it is HTTP/2 on a TLS socket that the agent dialled, with the
 * roles turned round; in simulation a pair of queues. Both ends may lose it at any time.
 */

/** What the control plane holds of one connected agent. */
export interface AgentLink extends AsyncDisposable {
  /** The node id and key that the client certificate proves. */
  readonly peer: { node: string; keyFingerprint: string }
  /** Where the agent dialled from, for logs. */
  readonly remote: string
  readonly messages: AsyncIterable<AgentMessage>
  /** Resolves once the message is handed to the network; waits while the agent reads slowly. */
  send(message: ControlMessage): Promise<void>
  /** Opens a byte stream to a service of the agent: see `wire/services.ts`. */
  open(service: string, request: unknown, options: { signal: AbortSignal }): Promise<Duplex>
}

/** What the agent holds of the control plane. */
export interface ControlLink extends AsyncDisposable {
  readonly messages: AsyncIterable<ControlMessage>
  send(message: AgentMessage): Promise<void>
}

/**
 * What an agent serves on byte streams; `request` is untrusted until the service has parsed it. The transport writes the
 * answer line: `ok` at the service's first read or write, or the Fault that it throws before. So a service parses and
 * checks first and touches the stream last. When the promise resolves, the stream ends; `signal` fires when the control
 * plane gives the stream up or the connection is lost.
 */
export type StreamService = (request: unknown, stream: Duplex, options: { signal: AbortSignal }) => Promise<void>
