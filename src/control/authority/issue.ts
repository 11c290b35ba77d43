import { isIP } from 'node:net'
import type * as X509 from '@peculiar/x509'
import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { NodeId } from '../../model/ids.ts'
import { type Authority, clockSkewMs, commonName, newSerial, p256, privateKeyPem, signingKey } from './authority.ts'
import { loadX509 } from './x509.ts'

const dayMs = 86_400_000
export const serverLifeMs = 397 * dayMs
export const agentLifeMs = 30 * dayMs
/** A certificate request is a few hundred bytes; longer ones are not looked at. */
const maxRequestLength = 16_384

/** A certificate and key for the control plane's port. `hosts` are the names and addresses that people will use. */
export async function issueServerCertificate({ authority, hosts, now, random, lifeMs = serverLifeMs }: ServerOptions) {
  const x509 = await loadX509()
  const keys = await crypto.subtle.generateKey(p256, true, ['sign', 'verify'])
  const all = [...new Set([...hosts, 'localhost', '127.0.0.1', '::1'])]
  const certificate = await sign(x509, {
    authority,
    subject: all[0] ?? 'localhost',
    publicKey: keys.publicKey,
    usage: x509.ExtendedKeyUsage.serverAuth,
    names: all.map((host) => ({ type: isIP(host) ? 'ip' : 'dns', value: host })),
    now,
    lifeMs,
    random,
  })
  return { certificate, key: await privateKeyPem(keys.privateKey) }
}

export interface ServerOptions {
  authority: Authority
  hosts: readonly string[]
  /** Ms since the epoch. */
  now: number
  lifeMs?: number
  /** For the serial number; the library draws its own without it. */
  random?: Random | undefined
}

/**
 * A client certificate for the node's agent. Only the public key is taken from the request, whatever else it asks for,
 * and only when the request proves that the asker holds the private one.
 */
export async function signAgentRequest({ authority, csr, nodeId, now, random, lifeMs = agentLifeMs }: AgentOptions) {
  const x509 = await loadX509()
  const publicKey = await provenKey(x509, csr)
  return await sign(x509, {
    authority,
    subject: nodeId,
    publicKey,
    usage: x509.ExtendedKeyUsage.clientAuth,
    names: [{ type: 'url', value: `tutti://node/${nodeId}` }],
    now,
    lifeMs,
    random,
  })
}

export interface AgentOptions {
  authority: Authority
  /** PEM. */
  csr: string
  nodeId: NodeId
  /** Ms since the epoch. */
  now: number
  lifeMs?: number
  /** For the serial number; the library draws its own without it. */
  random?: Random | undefined
}

async function provenKey(x509: typeof X509, csr: string): Promise<X509.PublicKey> {
  if (csr.length > maxRequestLength)
    throw new Fault('invalid', `the certificate request is over ${maxRequestLength} bytes`)
  const request = parse(x509, csr)
  if (!isAllowed(request.publicKey.algorithm)) {
    throw new Fault('invalid', 'the key of the certificate request is neither P-256 nor Ed25519; make one of these')
  }
  if (!(await request.verify().catch(() => false))) {
    throw new Fault('invalid', 'the certificate request is not signed with its own key')
  }
  return request.publicKey
}

function parse(x509: typeof X509, csr: string): X509.Pkcs10CertificateRequest {
  try {
    return new x509.Pkcs10CertificateRequest(csr)
  } catch (cause) {
    throw new Fault('invalid', 'the certificate request cannot be read: it is not a PKCS#10 request in PEM', { cause })
  }
}

function isAllowed(algorithm: { name: string; namedCurve?: string }): boolean {
  return algorithm.name === 'Ed25519' || (algorithm.name === 'ECDSA' && algorithm.namedCurve === 'P-256')
}

interface SignOptions {
  authority: Authority
  subject: string
  publicKey: CryptoKey | X509.PublicKey
  usage: X509.ExtendedKeyUsage
  names: { type: 'ip' | 'dns' | 'url'; value: string }[]
  now: number
  lifeMs: number
  random: Random | undefined
}

async function sign(x509: typeof X509, options: SignOptions): Promise<string> {
  const ca = new x509.X509Certificate(options.authority.caCertificate)
  const certificate = await x509.X509CertificateGenerator.create({
    ...(options.random && { serialNumber: newSerial(options.random) }),
    subject: commonName(x509, options.subject),
    issuer: ca.subjectName,
    notBefore: new Date(options.now - clockSkewMs),
    notAfter: new Date(Math.min(options.now + options.lifeMs, ca.notAfter.getTime())),
    publicKey: options.publicKey,
    signingKey: await signingKey(options.authority),
    signingAlgorithm: p256,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([options.usage], false),
      new x509.SubjectAlternativeNameExtension(options.names),
      await x509.AuthorityKeyIdentifierExtension.create(ca.publicKey),
      await x509.SubjectKeyIdentifierExtension.create(options.publicKey),
    ],
  })
  return certificate.toString('pem')
}
