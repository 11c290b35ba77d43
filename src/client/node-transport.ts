import type { IncomingMessage } from 'node:http'
import { Agent, request as httpsRequest } from 'node:https'
import { pipeline } from 'node:stream'
import { Fault } from '../model/fault.ts'
import { fetchAuthority, fingerprintOf } from './authority.ts'
import { connectionFault } from './connection-fault.ts'
import { readJson } from './read-reply.ts'
import type { Transport, TransportReply, TransportRequest, TransportSocket } from './transport.ts'

export interface NodeTransportOptions {
  /** Such as `https://control.example:7447`. */
  url: string
  token?: string | undefined
  /** The authority's certificate, PEM. Without it, it is fetched and checked against the fingerprint. */
  ca?: string | undefined
  /** SHA-256 of the authority's certificate, hex. */
  caFingerprint?: string | undefined
  /** What to suggest when nothing can be reached; ends the sentence. */
  remedy?: string | undefined
}

/**
 * HTTPS with connections kept alive, believing one authority and no other. The host name is not looked at: a control
 * plane is reached by many names, and its authority certifies nobody else as a server.
 */
export function nodeTransport(options: NodeTransportOptions): Transport {
  const url = checkUrl(options.url)
  const headers = {
    accept: 'application/json',
    ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
  }
  let agent: Promise<Agent> | undefined
  const trusted = (signal?: AbortSignal) => {
    agent ??= createAgent(options, signal)
    agent.catch(() => {
      agent = undefined
    })
    return agent
  }
  const say = (error: unknown, signal: AbortSignal | undefined) =>
    signal?.aborted ? signal.reason : connectionFault(error, url, options.remedy)
  return {
    url,
    request: async (wanted) => {
      try {
        return await send(url, await trusted(wanted.signal), headers, wanted)
      } catch (error) {
        throw say(error, wanted.signal)
      }
    },
    socket: async (path, { signal }) => {
      try {
        return await openSocket(url, await trusted(signal), headers, path, signal)
      } catch (error) {
        throw say(error, signal)
      }
    },
    [Symbol.asyncDispose]: async () => {
      const open = await agent?.catch(() => undefined)
      open?.destroy()
    },
  }
}

function checkUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url?.protocol === 'https:' && url.username === '' && url.password === '') return url.origin
  throw new Fault('invalid', `"${text}" is not the address of a control plane; write it like "https://host:7447"`)
}

async function createAgent(options: NodeTransportOptions, signal?: AbortSignal): Promise<Agent> {
  const { url, ca, caFingerprint, remedy } = options
  if (ca === undefined && caFingerprint === undefined) {
    throw new Fault(
      'invalid',
      `nothing says how to recognise the control plane at ${url}: give the fingerprint of its authority`,
    )
  }
  if (
    ca !== undefined &&
    caFingerprint !== undefined &&
    fingerprintOf(ca) !== caFingerprint.replaceAll(':', '').toLowerCase()
  ) {
    throw new Fault(
      'invalid',
      `the authority that is kept for ${url} does not have the fingerprint that is kept with it`,
    )
  }
  const trusted = ca ?? (await fetchAuthority({ url, fingerprint: caFingerprint ?? '', remedy, signal }))
  return new Agent({ keepAlive: true, ca: trusted, checkServerIdentity: () => undefined, ALPNProtocols: ['http/1.1'] })
}

function send(
  url: string,
  agent: Agent,
  headers: Record<string, string>,
  wanted: TransportRequest,
  again = true,
): Promise<TransportReply> {
  const { method, path, body, upload, quietMs, signal } = wanted
  return new Promise((resolve, reject) => {
    const request = httpsRequest(`${url}${path}`, {
      method,
      agent,
      headers: {
        ...headers,
        ...(body === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        ...(upload === undefined ? {} : { 'content-type': 'application/octet-stream' }),
      },
      ...(signal ? { signal } : {}),
    })
    request.setTimeout(quietMs, () => {
      request.destroy(new Fault('unavailable', `nothing came from ${url} for ${Math.round(quietMs / 1000)} s`))
    })
    request.once('error', (error: NodeJS.ErrnoException) => {
      // A kept connection may have been closed by the other side just now: that says nothing about the server.
      const stale = request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
      // An upload that was begun cannot be begun again.
      if (stale && again && !upload) resolve(send(url, agent, headers, wanted, false))
      else reject(error)
    })
    request.once('response', (response: IncomingMessage) => {
      resolve({ status: response.statusCode ?? 0, body: response })
    })
    if (!upload) request.end(body)
    // What goes wrong with the connection is told by the request itself; an answer may come before all was sent.
    else pipeline(upload, request, (error) => error && upload.errored && request.destroy(error))
  })
}

async function openSocket(
  url: string,
  agent: Agent,
  headers: Record<string, string>,
  path: string,
  signal: AbortSignal | undefined,
): Promise<TransportSocket> {
  // Only ways into workloads need it.
  const { WebSocket } = await import('ws')
  signal?.throwIfAborted()
  const socket = new WebSocket(`${url.replace(/^https/, 'wss')}${path}`, {
    agent,
    headers,
    handshakeTimeout: 15_000,
    perMessageDeflate: false,
    maxPayload: 2 * 2 ** 20,
  })
  return new Promise((resolve, reject) => {
    const onAbort = () => socket.terminate()
    signal?.addEventListener('abort', onAbort, { once: true })
    socket.once('unexpected-response', (_request, response: IncomingMessage) => {
      readJson({ status: response.statusCode ?? 500, body: response }).then(
        () => reject(new Fault('unavailable', `${url} does not speak WebSocket`)),
        reject,
      )
    })
    let connection: IncomingMessage['socket'] | undefined
    socket.once('upgrade', (response: IncomingMessage) => {
      connection = response.socket
    })
    socket.once('error', reject)
    socket.once('open', () => {
      socket.off('error', reject)
      signal?.removeEventListener('abort', onAbort)
      resolve({ socket, holdProcess: (hold) => void (hold ? connection?.ref() : connection?.unref()) })
    })
  })
}
