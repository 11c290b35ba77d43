import { X509Certificate } from 'node:crypto'
import { connect, type DetailedPeerCertificate } from 'node:tls'
import { Fault } from '../model/fault.ts'
import { connectionFault } from './connection-fault.ts'

/**
 * The certificate authority of a control plane of which only the fingerprint is known: its server shows it, and the
 * fingerprint proves it. Nothing is sent on this connection; real ones then trust nothing but this authority.
 */
export function fetchAuthority({ url, fingerprint, remedy, signal }: FetchAuthorityOptions): Promise<string> {
  const { hostname, port, host } = new URL(url)
  const wanted = fingerprint.replaceAll(':', '').toLowerCase()
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || 443),
      // Nobody is believed here: the certificate is only looked at.
      rejectUnauthorized: false,
      timeout: 10_000,
      ALPNProtocols: ['http/1.1'],
    })
    const fail = (cause: unknown) => {
      socket.destroy()
      reject(signal?.aborted ? signal.reason : connectionFault(cause, url, remedy))
    }
    const onAbort = () => fail(signal?.reason)
    signal?.addEventListener('abort', onAbort, { once: true })
    socket.once('timeout', () => fail(new Fault('unavailable', `${host} did not answer in time`)))
    socket.once('error', fail)
    socket.once('close', () => signal?.removeEventListener('abort', onAbort))
    socket.once('secureConnect', () => {
      const found = chain(socket.getPeerCertificate(true)).find((certificate) => digestOf(certificate) === wanted)
      socket.destroy()
      if (found) return resolve(found.toString())
      reject(
        new Fault(
          'unauthenticated',
          `the server at ${host} does not show the authority ${wanted.slice(0, 16)}…; it is another control plane, or this one was set up anew`,
        ),
      )
    })
  })
}

export interface FetchAuthorityOptions {
  url: string
  /** SHA-256 of the authority's certificate, hex. */
  fingerprint: string
  /** What to suggest when nothing can be reached. */
  remedy?: string | undefined
  signal?: AbortSignal | undefined
}

/** SHA-256 of a PEM certificate, lower-case hex; undefined when it is none. */
export function fingerprintOf(pem: string): string | undefined {
  try {
    return digestOf(new X509Certificate(pem))
  } catch {
    return undefined
  }
}

function digestOf(certificate: X509Certificate): string {
  return certificate.fingerprint256.replaceAll(':', '').toLowerCase()
}

function chain(leaf: DetailedPeerCertificate): X509Certificate[] {
  const certificates: X509Certificate[] = []
  const seen = new Set<string>()
  for (let each: DetailedPeerCertificate | undefined = leaf; each?.raw; each = each.issuerCertificate) {
    if (seen.has(each.fingerprint256)) break
    seen.add(each.fingerprint256)
    certificates.push(new X509Certificate(each.raw))
  }
  return certificates
}
