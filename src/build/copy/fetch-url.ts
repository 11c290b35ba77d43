import { createHash } from 'node:crypto'
import { lookup } from 'node:dns'
import { createWriteStream } from 'node:fs'
import { get as getHttp, type IncomingMessage } from 'node:http'
import { get as getHttps } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Fault } from '../../model/fault.ts'
import { formatSize } from '../../model/units.ts'
import type { Reachability } from './reachable.ts'

export interface FetchUrlOptions {
  url: string
  /** The file to make. */
  file: string
  maxBytes: number
  /** What an address is to the node; asked of each that a name stands for when it is connected to, also after redirects. */
  reachability: (address: string) => Reachability
  /** A server that says nothing for so long is given up. */
  idleMs?: number
  signal: AbortSignal
}

export interface FetchedUrl {
  /** SHA-256, hex. */
  hash: string
  size: number
  /** Seconds since the epoch; what the server says, or 0. */
  changedAt: number
}

const maxRedirects = 5

/** Brings what a URL leads to into a file, as it was stored. */
export async function fetchUrl(options: FetchUrlOptions): Promise<FetchedUrl> {
  const { file, maxBytes, signal } = options
  const shown = withoutSecrets(options.url)
  try {
    const response = await follow(options)
    const length = Number(response.headers['content-length'] ?? 0)
    if (length > maxBytes) throw tooLarge(maxBytes)
    const hash = createHash('sha256')
    let size = 0
    const counting = new Transform({
      transform(chunk: Buffer, _, done) {
        size += chunk.length
        hash.update(chunk)
        done(size > maxBytes ? tooLarge(maxBytes) : null, chunk)
      },
    })
    await pipeline(response, counting, createWriteStream(file, { mode: 0o600 }), { signal })
    const changedAt = Math.floor(Date.parse(response.headers['last-modified'] ?? '') / 1000)
    return { hash: hash.digest('hex'), size, changedAt: Number.isFinite(changedAt) ? Math.max(0, changedAt) : 0 }
  } catch (error) {
    signal.throwIfAborted()
    const { code = '', message } = error as NodeJS.ErrnoException
    if (error instanceof Fault) throw new Fault(error.code, `cannot fetch ${shown}: ${message}`, { cause: error.cause })
    if (code === 'ENOSPC')
      throw new Fault('exhausted', `cannot fetch ${shown}: the disk of the node is full; free space`)
    throw new Fault('unavailable', `cannot fetch ${shown}: ${reasons[code] ?? message}`, { cause: error })
  }
}

const reasons: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no host of that name',
  EAI_AGAIN: 'the name of the host cannot be looked up from this node',
  ECONNREFUSED: 'the server refuses connections',
  ECONNRESET: 'the server broke the transfer off',
}

/** The answer with the file, after all redirects. */
async function follow({
  url: first,
  reachability,
  idleMs = 30_000,
  signal,
}: FetchUrlOptions): Promise<IncomingMessage> {
  let url = new URL(first)
  for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
    const response = await ask(url, { reachability, idleMs, signal })
    const { statusCode = 0, statusMessage = '', headers } = response
    if (statusCode === 200) return response
    response.destroy()
    if (statusCode < 300 || statusCode >= 400 || headers.location === undefined)
      throw new Fault(
        statusCode === 404 || statusCode === 410 ? 'not_found' : 'unavailable',
        `${url.host} answered ${statusCode} ${statusMessage}`.trim(),
      )
    const next = new URL(headers.location, url)
    if (next.protocol !== 'https:' && (next.protocol !== 'http:' || url.protocol === 'https:'))
      throw new Fault(
        'denied',
        `${url.host} leads to ${next.protocol}//${next.host}, which is less safe than what was asked`,
      )
    url = next
  }
  throw new Fault('unavailable', `it was redirected more than ${maxRedirects} times`)
}

function ask(
  url: URL,
  { reachability, idleMs, signal }: Pick<FetchUrlOptions, 'reachability' | 'signal'> & { idleMs: number },
): Promise<IncomingMessage> {
  const refused = (addresses: readonly string[]) =>
    new Fault(
      'denied',
      addresses.some((address) => reachability(address) === 'private')
        ? `${url.hostname} is in a private range of the node's network, which its owner may allow with TUTTI_FETCH_FROM; or fetch it in a RUN step`
        : `${url.hostname} is an address of the node itself; fetch it in a RUN step`,
    )
  const guarded: LookupFunction = (name, options, done) =>
    lookup(name, { ...options, all: true }, (error, addresses) => {
      if (error) return done(error, '', 0)
      const allowed = addresses.filter(({ address }) => reachability(address) === 'reachable')
      const [one] = allowed
      if (!one) return done(refused(addresses.map(({ address }) => address)), '', 0)
      return options.all ? done(null, allowed) : done(null, one.address, one.family)
    })
  return new Promise((resolve, reject) => {
    const host = url.hostname.replace(/^\[|\]$/g, '')
    if (isIP(host) && reachability(host) !== 'reachable') return reject(refused([host]))
    const headers = { 'accept-encoding': 'identity', 'user-agent': 'tutti' }
    const get = url.protocol === 'https:' ? getHttps : getHttp
    const request = get(url, { headers, lookup: guarded, timeout: idleMs, signal, agent: false }, resolve)
    request.on('timeout', () =>
      request.destroy(new Fault('unavailable', `${url.host} said nothing for ${idleMs / 1000} s`)),
    )
    request.on('error', reject)
  })
}

function tooLarge(maxBytes: number): Fault {
  return new Fault('invalid', `it is larger than the ${formatSize(maxBytes)} of the template's disk`)
}

/** A URL as it may be shown: without user, password and query. */
export function withoutSecrets(url: string): string {
  const { origin, pathname } = new URL(url)
  return `${origin}${pathname}`
}
