import { createPrivateKey, X509Certificate } from 'node:crypto'
import type * as X509 from '@peculiar/x509'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import { loadX509 } from './x509.ts'

/**
 * The cluster's certificate authority: one self-signed P-256 certificate that signs the control plane's server
 * certificate and every agent's client certificate, and nothing else. Whoever knows its fingerprint can tell the real
 * control plane from any other.
 */
export interface Authority {
  /** PEM. */
  caCertificate: string
  /** PKCS#8 PEM. A secret. */
  caKey: string
}

const dayMs = 86_400_000
const authorityLifeMs = 20 * 365 * dayMs
/** Certificates are valid from a little earlier, for machines whose clock is behind. */
export const clockSkewMs = 3_600_000

export async function createAuthority({ name, clock, random }: AuthorityOptions): Promise<Authority> {
  const x509 = await loadX509()
  const keys = await crypto.subtle.generateKey(p256, true, ['sign', 'verify'])
  const now = clock.now()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(random),
    name: commonName(x509, `${name} authority`),
    notBefore: new Date(now - clockSkewMs),
    notAfter: new Date(now + authorityLifeMs),
    keys,
    signingAlgorithm: p256,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return { caCertificate: certificate.toString('pem'), caKey: await privateKeyPem(keys.privateKey) }
}

export interface AuthorityOptions {
  /** The cluster's name; for people who look at the certificate. */
  name: string
  clock: Clock
  random: Random
}

export const p256 = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

/** SHA-256 of the certificate's DER, in hex: what contexts and join tokens pin. */
export function caFingerprint(pem: string): string {
  try {
    return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase()
  } catch (cause) {
    throw new Fault('invalid', 'cannot read the authority: it is not a PEM certificate', { cause })
  }
}

/** The authority's key, ready to sign. */
export async function signingKey(authority: Authority): Promise<CryptoKey> {
  try {
    const der = createPrivateKey(authority.caKey).export({ type: 'pkcs8', format: 'der' })
    return await crypto.subtle.importKey('pkcs8', new Uint8Array(der), p256, false, ['sign'])
  } catch (cause) {
    throw new Fault('internal', "cannot use the authority's key: it is not a P-256 key in PKCS#8 PEM", { cause })
  }
}

export async function privateKeyPem(key: CryptoKey): Promise<string> {
  const der = Buffer.from(await crypto.subtle.exportKey('pkcs8', key))
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    .export({ type: 'pkcs8', format: 'pem' })
    .toString()
}

/** Sixteen random bytes, positive and without a leading zero, as certificates want them. */
export function newSerial(random: Random): string {
  const bytes = Buffer.from(random.bytes(16))
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40
  return bytes.toString('hex')
}

/** Built from parts, so that no character of the value can be read as syntax. */
export function commonName(x509: typeof X509, value: string): X509.Name {
  return new x509.Name([{ CN: [{ utf8String: value }] }])
}
