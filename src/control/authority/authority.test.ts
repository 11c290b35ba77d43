import assert from 'node:assert/strict'
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { before, test } from 'node:test'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { Fault } from '../../model/fault.ts'
import { NodeId } from '../../model/ids.ts'
import { createKeyAndRequest, remainingLifeMs, rotationDueAt } from '../../wire/http2/identity.ts'
import { type Authority, caFingerprint, createAuthority } from './authority.ts'
import { issueServerCertificate, signAgentRequest } from './issue.ts'
import { loadX509 } from './x509.ts'

const dayMs = 86_400_000
const nodeId = NodeId.parse('0123456789abcdef')
const now = systemClock.now()
let authority: Authority

before(async () => {
  authority = await createAuthority({ name: 'cluster, CN=evil', clock: systemClock, random: systemRandom })
})

test('an authority lasts twenty years, may sign certificates, and its name is only a name', () => {
  const certificate = new X509Certificate(authority.caCertificate)
  assert.equal(certificate.ca, true)
  assert.equal(Math.round((certificate.validToDate.getTime() - now) / dayMs), 20 * 365)
  assert.equal(certificate.subject, 'CN=cluster\\, CN=evil authority')
  assert(certificate.checkPrivateKey(createPrivateKey(authority.caKey)))
})

test('the fingerprint is the SHA-256 of the certificate, in hex', () => {
  const expected = new X509Certificate(authority.caCertificate).fingerprint256.replaceAll(':', '').toLowerCase()
  assert.equal(caFingerprint(authority.caCertificate), expected)
  assert.match(expected, /^[0-9a-f]{64}$/)
  assert.throws(() => caFingerprint('nonsense'), isInvalid(/not a PEM certificate/))
})

test('a server certificate holds for every name and address given, and for this machine', async () => {
  const hosts = ['tutti.example.com', '10.1.2.3', 'fd00::7']
  const { certificate, key } = await issueServerCertificate({ authority, hosts, now })
  const parsed = new X509Certificate(certificate)
  assert.equal(parsed.checkHost('tutti.example.com'), 'tutti.example.com')
  assert.equal(parsed.checkHost('other.example.com'), undefined)
  for (const address of ['10.1.2.3', 'fd00::7', '127.0.0.1', '::1']) assert.equal(parsed.checkIP(address), address)
  assert.equal(parsed.checkHost('localhost'), 'localhost')
  assert(parsed.checkPrivateKey(createPrivateKey(key)))
  assert(parsed.checkIssued(new X509Certificate(authority.caCertificate)))
  assert.deepEqual(parsed.keyUsage, ['1.3.6.1.5.5.7.3.1'])
})

test('an agent gets a certificate of 30 days for its own key, as a client and nothing else', async () => {
  const { key, csr } = await createKeyAndRequest()
  const certificate = await signAgentRequest({ authority, csr, nodeId, now })
  const parsed = new X509Certificate(certificate)
  assert.equal(parsed.subject, `CN=${nodeId}`)
  assert.equal(parsed.subjectAltName, `URI:tutti://node/${nodeId}`)
  assert.deepEqual(parsed.keyUsage, ['1.3.6.1.5.5.7.3.2'])
  assert.equal(parsed.ca, false)
  assert(parsed.checkPrivateKey(createPrivateKey(key)))
  assert(parsed.verify(new X509Certificate(authority.caCertificate).publicKey))
  assert.equal(Math.round(remainingLifeMs(certificate, now) / dayMs), 30)
})

test('only the key is taken from a request, whatever else it asks for', async () => {
  const x509 = await loadX509()
  const keys = await crypto.subtle.generateKey({ name: 'Ed25519' }, true, ['sign', 'verify'])
  const greedy = await x509.Pkcs10CertificateRequestGenerator.create({
    name: 'CN=root',
    keys,
    signingAlgorithm: { name: 'Ed25519' },
    extensions: [
      new x509.BasicConstraintsExtension(true, 5, true),
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: 'control.example.com' }]),
    ],
  })
  const parsed = new X509Certificate(await signAgentRequest({ authority, csr: greedy.toString('pem'), nodeId, now }))
  assert.equal(parsed.subject, `CN=${nodeId}`)
  assert.equal(parsed.ca, false)
  assert.equal(parsed.subjectAltName, `URI:tutti://node/${nodeId}`)
  assert.equal(parsed.publicKey.asymmetricKeyType, 'ed25519')
})

test('a request with another kind of key is refused and told which to use', async () => {
  const x509 = await loadX509()
  const rsa = {
    name: 'RSASSA-PKCS1-v1_5',
    hash: 'SHA-256',
    modulusLength: 2048,
    publicExponent: new Uint8Array([1, 0, 1]),
  }
  const p384 = { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' }
  for (const algorithm of [rsa, p384]) {
    const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
    const request = await x509.Pkcs10CertificateRequestGenerator.create({
      name: 'CN=x',
      keys,
      signingAlgorithm: algorithm,
    })
    await assert.rejects(
      signAgentRequest({ authority, csr: request.toString('pem'), nodeId, now }),
      isInvalid(/neither P-256 nor Ed25519/),
    )
  }
})

test('a request that its key did not sign is refused', async () => {
  const x509 = await loadX509()
  const { csr } = await createKeyAndRequest()
  const bytes = Buffer.from(x509.PemConverter.decodeFirst(csr))
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
  const forged = x509.PemConverter.encode(bytes, 'CERTIFICATE REQUEST')
  await assert.rejects(
    signAgentRequest({ authority, csr: forged, nodeId, now }),
    isInvalid(/not signed with its own key/),
  )
})

test('what is no request is refused in words', async () => {
  for (const csr of [
    '',
    'hello',
    authority.caCertificate,
    'x'.repeat(20_000),
    '-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----',
  ]) {
    await assert.rejects(signAgentRequest({ authority, csr, nodeId, now }), isInvalid(/certificate request/))
  }
})

test('a certificate is renewed at a random moment between half and four fifths of its life', async () => {
  const { csr } = await createKeyAndRequest()
  const certificate = await signAgentRequest({ authority, csr, nodeId, now })
  const at = (fraction: number) =>
    (rotationDueAt(certificate, { ...systemRandom, fraction: () => fraction }) - now) / dayMs
  assert(Math.abs(at(0) - 15) < 0.1)
  assert(Math.abs(at(1) - 24) < 0.1)
})

function isInvalid(words: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof Fault && error.code === 'invalid' && words.test(error.message)
}
