import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { test } from 'node:test'
import tls from 'node:tls'
import fc from 'fast-check'
import { mostBytes, nameSaid } from './names.ts'

test('a TLS hello says its server name, and asks for more until it is whole', async () => {
  const hello = await helloOf('Api.Example.org')
  assert.deepEqual(nameSaid(hello), { kind: 'name', name: 'Api.Example.org', by: 'tls' })
  for (let length = 0; length < hello.length; length += 1)
    assert.deepEqual(nameSaid(hello.subarray(0, length)), { kind: 'more' }, `${length} bytes`)
})

test('a TLS hello cut into many records is read', async () => {
  const hello = await helloOf('example.org')
  const body = hello.subarray(5)
  const records = Array.from({ length: Math.ceil(body.length / 7) }, (_, n) => {
    const part = body.subarray(7 * n, 7 * n + 7)
    return Buffer.concat([Buffer.from([22, 3, 1, 0, part.length]), part])
  })
  assert.deepEqual(nameSaid(Buffer.concat(records)), { kind: 'name', name: 'example.org', by: 'tls' })
})

test('a TLS hello without a server name says so', async () => {
  assert.deepEqual(nameSaid(await helloOf(undefined)), { kind: 'none', why: 'its TLS hello names no host' })
})

test('an HTTP request says its host, without port and in any case', () => {
  for (const [request, name] of [
    ['GET / HTTP/1.1\r\nHost: example.org\r\n\r\n', 'example.org'],
    ['POST /a HTTP/1.1\r\nAccept: */*\r\nhOsT:EXAMPLE.org:8080\r\n\r\nbody', 'EXAMPLE.org'],
    ['CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n', 'example.org'],
  ] as const)
    assert.deepEqual(nameSaid(Buffer.from(request)), { kind: 'name', name, by: 'http' })
  assert.deepEqual(nameSaid(Buffer.from('GET / HTTP/1.1\r\nHost: example.org\r\n')), { kind: 'more' })
})

test('an HTTP request that is not plain about its host is refused', () => {
  for (const request of [
    'GET / HTTP/1.1\r\nHost: example.org\r\nHost: evil.test\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: example.org\r\nHost : evil.test\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: exa mple.org\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: \r\n\r\n',
    'SSH-2.0-OpenSSH_9.2\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ])
    assert.equal(nameSaid(Buffer.from(request)).kind, 'none', request)
})

test('nothing is awaited beyond the limit', () => {
  assert.equal(nameSaid(Buffer.from(`GET /${'a'.repeat(mostBytes)}`)).kind, 'none')
  assert.equal(
    nameSaid(Buffer.concat([Buffer.from([22, 3, 1, 255, 255, 1, 0, 60, 0]), Buffer.alloc(mostBytes)])).kind,
    'none',
  )
})

test('bytes of strangers never break the reading, nor does a damaged hello', async () => {
  const hello = await helloOf('example.org')
  const answers = (bytes: Buffer) => ['name', 'more', 'none'].includes(nameSaid(bytes).kind)
  fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => answers(Buffer.from(bytes))))
  const damage = fc.array(fc.tuple(fc.nat(hello.length - 1), fc.nat(255)), { minLength: 1, maxLength: 5 })
  fc.assert(
    fc.property(damage, fc.nat(hello.length), (changes, length) => {
      const damaged = Buffer.from(hello)
      for (const [at, value] of changes) damaged[at] = value
      return answers(damaged) && answers(damaged.subarray(0, length))
    }),
    { numRuns: 3000 },
  )
})

/** What Node itself sends first. */
async function helloOf(servername: string | undefined): Promise<Buffer> {
  const sent = Promise.withResolvers<Buffer>()
  const wire = new Duplex({ read() {}, write: (chunk: Buffer) => sent.resolve(chunk) })
  const client = tls.connect({ socket: wire, ...(servername === undefined ? {} : { servername }) })
  client.on('error', () => {})
  const hello = await sent.promise
  client.destroy()
  await once(client, 'close')
  return hello
}
