import { createServer, type Server } from 'node:http'

/**
 * The HTTP server behind the port: an ordinary one that never listens itself, but is handed its connections. Build the
 * API on it (fastify takes it through `serverFactory`) and give it to `openPort`.
 */
export function createHttpServer(limits: Partial<HttpLimits> = {}): Server {
  const { headersMs, requestMs, keepAliveMs, maxHeaderBytes } = { ...httpLimits, ...limits }
  const server = createServer({
    headersTimeout: headersMs,
    requestTimeout: requestMs,
    keepAliveTimeout: keepAliveMs,
    maxHeaderSize: maxHeaderBytes,
    connectionsCheckingInterval: Math.min(1000, headersMs),
  })
  // Node begins to look after the time limits of connections when a server listens, which this one never does.
  server.emit('listening')
  return server
}

export interface HttpLimits {
  /** A request's head must be complete within this; counts from the connection's start too. */
  headersMs: number
  /** A whole request must be there within this; generous, for uploads. */
  requestMs: number
  keepAliveMs: number
  maxHeaderBytes: number
}

const httpLimits: HttpLimits = {
  headersMs: 15_000,
  requestMs: 3_600_000,
  keepAliveMs: 75_000,
  maxHeaderBytes: 32 * 1024,
}
