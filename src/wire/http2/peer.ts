import { createHash, type X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { Fault } from '../../model/fault.ts'
import { NodeId } from '../../model/ids.ts'

/**
 * Who is at the other end, as its client certificate proves; a Fault that the agent's owner can act on otherwise.
 * The TLS library has checked chain, dates and purpose; the dates are checked again because a resumed session is not.
 */
export function readPeer(socket: TLSSocket, now: number): { node: NodeId; keyFingerprint: string } {
  const certificate = socket.getPeerX509Certificate()
  if (!certificate) {
    throw new Fault(
      'unauthenticated',
      'this agent showed no client certificate; let the machine join with a join token',
    )
  }
  if (!socket.authorized) throw refusal(String(socket.authorizationError), certificate)
  if (now > certificate.validToDate.getTime()) throw refusal('CERT_HAS_EXPIRED', certificate)
  const id = NodeId.safeParse(/(?:^|\n)CN=([^\n]+)$/.exec(certificate.subject)?.[1])
  if (!id.success || !certificate.subjectAltName?.split(', ').includes(`URI:tutti://node/${id.data}`)) {
    throw new Fault('unauthenticated', "this agent's certificate does not name a node; let the machine join again")
  }
  return { node: id.data, keyFingerprint: keyFingerprint(certificate) }
}

/** SHA-256 of the public key's DER, in hex. */
export function keyFingerprint(certificate: X509Certificate): string {
  return createHash('sha256')
    .update(certificate.publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex')
}

function refusal(code: string, certificate: X509Certificate): Fault {
  const rejoin = 'let the machine join again with a new join token'
  const reasons: Record<string, string> = {
    CERT_HAS_EXPIRED: `this agent's certificate expired on ${certificate.validTo}; ${rejoin}`,
    CERT_NOT_YET_VALID: `this agent's certificate is valid only from ${certificate.validFrom}; check the clocks of both machines`,
    INVALID_PURPOSE: "this agent's certificate is not one for agents; use the one that joining gave",
  }
  const unknown = `this agent's certificate was not issued by this control plane's authority (${code}); ${rejoin}`
  return new Fault('unauthenticated', reasons[code] ?? unknown)
}
