import { createPrivateKey, X509Certificate } from 'node:crypto'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'

/**
 * What an agent proves itself with: a key that never leaves the machine and a certificate for it from the control
 * plane. Certificates live for a month and are renewed well before; the moment is random, so that a thousand agents
 * that joined together do not renew together.
 */
export interface Identity {
  /** PEM. */
  certificate: string
  /** PKCS#8 PEM. A secret. */
  key: string
  /** The authority of the control plane that the agent joined, PEM. */
  ca: string
}

const p256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

/** A fresh key and a request for a certificate of it, both PEM. The name in the request is not looked at. */
export async function createKeyAndRequest(): Promise<{ key: string; csr: string }> {
  // Loaded here, because it costs a tenth of a second and is needed once a month; reflect-metadata must come first.
  await import('reflect-metadata')
  const x509 = await import('@peculiar/x509')
  const keys = await crypto.subtle.generateKey(p256, true, ['sign', 'verify'])
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: 'CN=tutti-agent',
    keys,
    signingAlgorithm: p256,
  })
  const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', keys.privateKey))
  const key = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }).export({ type: 'pkcs8', format: 'pem' })
  return { key: key.toString(), csr: request.toString('pem') }
}

/** Ms until the certificate ends; negative when it has. */
export function remainingLifeMs(certificate: string, now: number): number {
  return lifeOf(certificate).to - now
}

/** When to renew: a moment between 50 and 80 % of the certificate's life, ms since the epoch. Ask once and keep it. */
export function rotationDueAt(certificate: string, random: Random): number {
  const { from, to } = lifeOf(certificate)
  return Math.round(from + (to - from) * (0.5 + 0.3 * random.fraction()))
}

function lifeOf(pem: string): { from: number; to: number } {
  try {
    const certificate = new X509Certificate(pem)
    return { from: certificate.validFromDate.getTime(), to: certificate.validToDate.getTime() }
  } catch (cause) {
    throw new Fault('invalid', "cannot read the agent's certificate: it is not a PEM certificate", { cause })
  }
}
