import { X509Certificate } from 'node:crypto'
import https from 'node:https'
import { isIP } from 'node:net'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import tls, { type TLSSocket } from 'node:tls'
import { Fault } from '../../model/fault.ts'
import { type Address, addressText, dialFault, untrustedCodes } from './dial.ts'

/**
 * How API clients, and machines that are about to join, know the control plane: by the SHA-256 fingerprint of its
 * authority's certificate, which a context or a join token carries. The server shows the authority along with its own
 * certificate; what hashes to the fingerprint is the authority, and from then on ordinary verification against it
 * holds. As with agents, and for the same reason, the host name is not looked at: see `dialTls`.
 */
export interface PinnedServer {
  /** The authority, PEM. */
  ca: string
  /** For every HTTPS request and WebSocket. Keeps connections alive; `destroy()` it at the end. */
  agent: https.Agent
}

/** Asks the server for its authority and accepts only the one with this fingerprint. Returns it as PEM. */
export async function learnAuthority({ host, port, fingerprint, signal }: LearnOptions): Promise<string> {
  const where = addressText({ host, port })
  const expected = fingerprint.replaceAll(':', '').toLowerCase()
  if (!/^[0-9a-f]{64}$/.test(expected)) {
    throw new Fault('invalid', 'the fingerprint of the authority is not 64 hexadecimal digits')
  }
  const socket = await connectUnverified({ host, port, signal })
  try {
    const chain = [...shownChain(socket)]
    const ca = chain.find((certificate) => fingerprintOf(certificate) === expected)
    const [leaf] = chain
    if (!ca || !leaf) throw otherAuthority(where, expected, chain.at(-1))
    // Showing somebody's authority proves nothing; this connection must be vouched for by it.
    if (!leaf.checkIssued(ca) || !leaf.verify(ca.publicKey)) {
      throw new Fault(
        'unauthenticated',
        `the certificate of the server at ${where} was not issued by the authority it shows`,
      )
    }
    return ca.toString()
  } finally {
    socket.destroy()
  }
}

export interface LearnOptions extends Address {
  /** SHA-256 of the authority's certificate in hex, with or without colons. */
  fingerprint: string
  signal: AbortSignal
}

/** Everything needed to talk to the server with this fingerprint; one connection is made to learn its authority. */
export async function pinServer(options: LearnOptions): Promise<PinnedServer> {
  return pinAuthority(await learnAuthority(options))
}

/** The same, where the authority itself is at hand. */
export function pinAuthority(ca: string): PinnedServer {
  const agent = new https.Agent({
    ca,
    checkServerIdentity: () => undefined,
    minVersion: 'TLSv1.2',
    ALPNProtocols: ['http/1.1'],
    keepAlive: true,
    maxSockets: 64,
  })
  return { ca, agent }
}

/**
 * A `fetch` for one pinned server; it learns the authority at the first request. Node's own takes no authority of ours.
 * Failures to connect are Faults in words. Disposing closes the connections it kept.
 */
export function pinnedFetch({ fingerprint }: { fingerprint: string }): PinnedFetch {
  const servers = new Map<string, PinnedServer>()
  const pinned = async (address: Address, signal = new AbortController().signal): Promise<PinnedServer> => {
    const where = addressText(address)
    const known = servers.get(where) ?? (await pinServer({ ...address, fingerprint, signal }))
    servers.set(where, known)
    return known
  }
  const request = async (input: string | URL, init: PinnedRequest = {}): Promise<Response> => {
    const url = new URL(input)
    const address = { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 443) }
    const server = await pinned(address, init.signal)
    try {
      return await fetchWith(server, url, init)
    } catch (error) {
      if (init.signal?.aborted) throw init.signal.reason
      if (!untrustedCodes.has((error as NodeJS.ErrnoException).code ?? ''))
        throw dialFault(error as Error, addressText(address))
      // The server changed since: learning again says what it shows now, or that all is well.
      servers.delete(addressText(address))
      return await fetchWith(await pinned(address, init.signal), url, init)
    }
  }
  const dispose = async () => {
    for (const server of servers.values()) server.agent.destroy()
    servers.clear()
  }
  return Object.assign(request, { [Symbol.asyncDispose]: dispose })
}

export type PinnedFetch = ((input: string | URL, init?: PinnedRequest) => Promise<Response>) & AsyncDisposable

/** As much of `RequestInit` as our clients use. */
export interface PinnedRequest {
  method?: string
  headers?: Record<string, string>
  body?: string | Uint8Array | ReadableStream | Readable
  signal?: AbortSignal
}

function fetchWith(server: PinnedServer, url: URL, init: PinnedRequest): Promise<Response> {
  return new Promise((resolve, reject) => {
    const { method = 'GET', headers = {}, body, signal } = init
    const outgoing = https.request(url, { agent: server.agent, method, headers, ...(signal && { signal }) })
    outgoing.on('error', reject)
    outgoing.on('response', (incoming) => {
      const status = incoming.statusCode ?? 0
      const isEmpty = method === 'HEAD' || status === 204 || status === 205 || status === 304
      if (isEmpty) incoming.resume()
      const text = Object.entries(incoming.headersDistinct).flatMap(([name, all]) =>
        (all ?? []).map((value) => [name, value] as const),
      )
      const stream = isEmpty ? null : (Readable.toWeb(incoming) as unknown as ConstructorParameters<typeof Response>[0])
      resolve(
        new Response(stream, {
          status,
          statusText: incoming.statusMessage ?? '',
          headers: text.map(([name, value]) => [name, value]),
        }),
      )
    })
    if (body === undefined || typeof body === 'string' || body instanceof Uint8Array) return void outgoing.end(body)
    const source = body instanceof Readable ? body : Readable.fromWeb(body)
    source.on('error', (error) => outgoing.destroy(error)).pipe(outgoing)
  })
}

function connectUnverified({ host, port, signal }: Omit<LearnOptions, 'fingerprint'>): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const socket = tls.connect({
      host,
      port,
      ...(isIP(host) ? {} : { servername: host }),
      ALPNProtocols: ['http/1.1'],
      // Only what the server shows is looked at, nothing is said to it, and the connection is then closed.
      rejectUnauthorized: false,
    })
    const onAbort = () => {
      socket.destroy()
      reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    socket.on('error', (error) => reject(dialFault(error, addressText({ host, port }))))
    socket.on('close', () => {
      signal.removeEventListener('abort', onAbort)
      reject(
        new Fault(
          'unavailable',
          `the server at ${addressText({ host, port })} closed the connection before TLS was set up`,
        ),
      )
    })
    socket.once('secureConnect', () => resolve(socket))
  })
}

function* shownChain(socket: TLSSocket): Generator<X509Certificate> {
  let shown: tls.DetailedPeerCertificate | undefined = socket.getPeerCertificate(true)
  const seen = new Set<string>()
  while (shown?.raw && !seen.has(shown.fingerprint256)) {
    seen.add(shown.fingerprint256)
    yield new X509Certificate(shown.raw)
    shown = shown.issuerCertificate
  }
}

function fingerprintOf(certificate: X509Certificate): string {
  return certificate.fingerprint256.replaceAll(':', '').toLowerCase()
}

function otherAuthority(where: string, expected: string, shown: X509Certificate | undefined): Fault {
  const got = shown ? fingerprintOf(shown) : 'none'
  return new Fault(
    'unauthenticated',
    `the server at ${where} presents another certificate authority (expected ${expected}, got ${got}): ` +
      'it is not the control plane you know, or it was set up anew; get a new context or join token from its owner',
  )
}
