import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createAuthority } from '../control/authority/authority.ts'
import { systemClock } from '../kit/system-clock.ts'
import { systemRandom } from '../kit/system-random.ts'
import { Fault } from '../model/fault.ts'
import { encodeFrame, frame } from '../wire/frames.ts'
import { createClient } from './client.ts'
import { reply, type TestServer, testServer } from './testing.ts'

const clock = systemClock
const connect = (server: TestServer, more: object = {}) =>
  createClient({ url: server.url, caFingerprint: server.fingerprint, token: 'tutti_secret', clock, ...more })
const isFault = (code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code)
  assert.match(error.message, message)
  return true
}

test('a call fills in the path, the query and the body, and shows its token', async () => {
  await using server = await testServer({ handle: (_, response) => reply(response, 200, { ok: true }) })
  await using client = connect(server)
  await client.listAllocations({ job: 'web', live: true, limit: 5 })
  await client.labelNode({ node: 'n-1', body: { labels: { a: null } } })
  await client.purgeJob({ job: '../x' })
  assert.deepEqual(
    server.requests.map(({ method, url, body }) => `${method} ${url} ${body}`),
    [
      'GET /v1/allocations?job=web&live=true&limit=5 ',
      'PATCH /v1/nodes/n-1 {"labels":{"a":null}}',
      'DELETE /v1/jobs/..%2Fx ',
    ],
  )
  assert.ok(server.requests.every(({ authorization }) => authorization === 'Bearer tutti_secret'))
})

test('calls one after the other share a connection', async () => {
  await using server = await testServer({ handle: (_, response) => reply(response, 200, { ok: true }) })
  await using client = connect(server, { ca: server.ca })
  for (let n = 0; n < 5; n += 1) await client.health()
  assert.equal(server.connections(), 1)
})

test('a connection that the server closed in between is not noticed', async () => {
  await using server = await testServer({ handle: (_, response) => reply(response, 200, { ok: true }) })
  await using client = connect(server, { ca: server.ca })
  await client.health()
  server.breakConnections()
  assert.deepEqual(await client.health(), { ok: true })
})

test('the fault that the server threw is thrown here, with every place', async () => {
  const problem = { code: 'invalid', message: 'two mistakes', places: [{ path: 'count', message: 'must be a number' }] }
  await using server = await testServer({ handle: (_, response) => reply(response, 400, problem) })
  await using client = connect(server)
  await assert.rejects(client.status(), (error: unknown) => {
    assert.ok(isFault('invalid', /^two mistakes$/)(error))
    assert.deepEqual((error as Fault).places, problem.places)
    return true
  })
})

test('what is no control plane is said so', async () => {
  await using server = await testServer({ handle: (_, response) => response.writeHead(502).end('<html>') })
  await using client = connect(server)
  await assert.rejects(client.status(), isFault('unavailable', /is no Tutti control plane/))
})

test('nothing listening is said with the address and what to do', async () => {
  const server = await testServer({})
  await server[Symbol.asyncDispose]()
  await using client = connect(server, { ca: server.ca, remedy: 'start one' })
  await assert.rejects(
    client.status(),
    isFault('unavailable', new RegExp(`${server.url}: nothing listens there; start one`)),
  )
  await using pinned = connect(server, { remedy: 'start one' })
  await assert.rejects(pinned.status(), isFault('unavailable', /nothing listens there; start one/))
})

test('a server of another authority gets no request, by certificate or by fingerprint', async () => {
  await using server = await testServer({ handle: (_, response) => reply(response, 200, { ok: true }) })
  const { caCertificate } = await createAuthority({ name: 'other', clock, random: systemRandom })
  await using byCertificate = createClient({ url: server.url, ca: caCertificate, token: 'x', clock })
  await assert.rejects(byCertificate.health(), isFault('unauthenticated', /certificate of another authority/))
  await using byFingerprint = createClient({ url: server.url, caFingerprint: 'ab'.repeat(32), token: 'x', clock })
  await assert.rejects(byFingerprint.health(), isFault('unauthenticated', /does not show the authority/))
  await using mixed = createClient({ url: server.url, ca: server.ca, caFingerprint: 'ab'.repeat(32), clock })
  await assert.rejects(mixed.health(), isFault('invalid', /does not have the fingerprint/))
  await using nothing = createClient({ url: server.url, clock })
  await assert.rejects(nothing.health(), isFault('invalid', /give the fingerprint/))
  assert.equal(server.requests.length, 0)
})

test('only https addresses are taken', () => {
  for (const url of ['http://localhost', 'localhost:7447', '', 'https://user:pw@x']) {
    assert.throws(() => createClient({ url, ca: 'x', clock }), isFault('invalid', /is not the address/), url)
  }
})

test('an answer of another shape is refused where answers are checked', async () => {
  await using server = await testServer({ handle: (_, response) => reply(response, 200, { ok: 'yes' }) })
  await using client = connect(server, { schemas: () => import('../contract/endpoints.ts') })
  await assert.rejects(client.health(), isFault('unavailable', /are both ends the same version/))
})

test('aborting ends a call with its reason', async () => {
  await using server = await testServer({ handle: () => {} })
  await using client = connect(server, { ca: server.ca })
  const stop = new AbortController()
  const call = client.status({}, { signal: stop.signal })
  stop.abort(new Error('enough'))
  await assert.rejects(call, /enough/)
})

test('logs of both streams are told apart, and a fault in them is thrown', async () => {
  await using server = await testServer({
    handle: (_, response) => {
      response.write(encodeFrame(frame.stdout, 'one'))
      const rest = Buffer.concat([
        encodeFrame(frame.stderr, 'two'),
        encodeFrame(frame.fault, '{"code":"unavailable","message":"the node has gone"}'),
      ])
      response.write(rest.subarray(0, 3))
      response.end(rest.subarray(3))
    },
  })
  await using client = connect(server)
  const seen: string[] = []
  const read = async () => {
    for await (const { stream, data } of client.logs({ allocation: 'abc', tail: 3 })) seen.push(`${stream} ${data}`)
  }
  await assert.rejects(read(), isFault('unavailable', /the node has gone/))
  assert.deepEqual(seen, ['stdout one', 'stderr two'])
  assert.equal(server.requests[0]?.url, '/v1/allocations/abc/logs?tail=3')
})

test('logs of one stream are its very bytes', async () => {
  await using server = await testServer({ handle: (_, response) => response.end(Buffer.of(0, 1, 255)) })
  await using client = connect(server)
  const chunks: Buffer[] = []
  for await (const { data } of client.logs({ allocation: 'abc', stream: 'stdout' })) chunks.push(data)
  assert.deepEqual(Buffer.concat(chunks), Buffer.of(0, 1, 255))
})
