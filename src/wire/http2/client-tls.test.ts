import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { WebSocket, WebSocketServer } from 'ws'
import { isFault } from '../../../test/conformance/link.ts'
import { newAuthority, portRig } from '../../../test/conformance/port-rig.ts'
import { caFingerprint } from '../../control/authority/authority.ts'
import { issueServerCertificate } from '../../control/authority/issue.ts'
import { createHttpServer } from '../../control/port/http-server.ts'
import { openPort } from '../../control/port/port.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { learnAuthority, pinnedFetch, pinServer } from './client-tls.ts'

const signal = AbortSignal.timeout(60_000)

async function apiRig() {
  const rig = await portRig()
  rig.http.on('request', (request, response) => {
    if (request.url === '/forever') {
      response.write('data: 1\n\n')
      return
    }
    const pieces: Buffer[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece))
    request.on('end', () => {
      response.writeHead(request.url === '/none' ? 204 : 201, {
        'x-method': String(request.method),
        'set-cookie': ['a=1', 'b=2'],
      })
      response.end(request.url === '/none' ? undefined : Buffer.concat([Buffer.from('heard '), ...pieces]))
    })
  })
  const { port } = rig.port
  return { rig, port, url: `https://127.0.0.1:${port}`, fingerprint: caFingerprint(rig.authority.caCertificate) }
}

test('who knows the fingerprint learns the authority', async () => {
  const { rig, port, fingerprint } = await apiRig()
  await using _ = rig
  const ca = await learnAuthority({ host: '127.0.0.1', port, fingerprint, signal })
  assert.equal(caFingerprint(ca), fingerprint)
  const colons = fingerprint.toUpperCase().replace(/..(?!$)/g, '$&:')
  assert.equal(
    caFingerprint(await learnAuthority({ host: 'localhost', port, fingerprint: colons, signal })),
    fingerprint,
  )
})

test('a server with another authority is refused, with both fingerprints', async () => {
  const { rig, port, url, fingerprint } = await apiRig()
  await using _ = rig
  const other = caFingerprint((await newAuthority('other')).caCertificate)
  const words = new RegExp(`expected ${other}, got ${fingerprint}`)
  await assert.rejects(
    learnAuthority({ host: '127.0.0.1', port, fingerprint: other, signal }),
    isFault('unauthenticated', words),
  )
  await using fetch = pinnedFetch({ fingerprint: other })
  await assert.rejects(fetch(url), isFault('unauthenticated', words))
})

test('showing our authority beside a certificate that it did not issue is not enough', async () => {
  const { rig, fingerprint } = await apiRig()
  await using _ = rig
  const thief = await newAuthority('test')
  const { certificate, key } = await issueServerCertificate({ authority: thief, hosts: [], now: systemClock.now() })
  const ca = rig.authority.caCertificate
  const http = createHttpServer()
  await using port = await openPort({
    host: '127.0.0.1',
    port: 0,
    certificate,
    key,
    ca,
    http,
    onAgent: () => {},
    clock: systemClock,
  })
  await assert.rejects(
    learnAuthority({ host: '127.0.0.1', port: port.port, fingerprint, signal }),
    isFault('unauthenticated', /another certificate authority|not issued by the authority it shows/),
  )
  http.close(() => {})
})

test('pinned requests carry methods, headers, bodies and answers', async () => {
  const { rig, url, fingerprint } = await apiRig()
  await using _ = rig
  await using fetch = pinnedFetch({ fingerprint })
  const response = await fetch(`${url}/v1`, {
    method: 'PUT',
    body: 'a spec',
    headers: { 'content-type': 'text/plain' },
  })
  assert.equal(response.status, 201)
  assert.equal(response.headers.get('x-method'), 'PUT')
  assert.deepEqual(response.headers.getSetCookie(), ['a=1', 'b=2'])
  assert.equal(await response.text(), 'heard a spec')
  const streamed = await fetch(url, {
    method: 'POST',
    body: Readable.from([Buffer.from('in '), Buffer.from('pieces')]),
  })
  assert.equal(await streamed.text(), 'heard in pieces')
  const none = await fetch(`${url}/none`)
  assert.equal(none.status, 204)
  assert.equal(await none.text(), '')
})

test('an answer without end can be read as it comes, and given up', async () => {
  const { rig, url, fingerprint } = await apiRig()
  await using _ = rig
  await using fetch = pinnedFetch({ fingerprint })
  const stop = new AbortController()
  const response = await fetch(`${url}/forever`, { signal: stop.signal })
  const reader = response.body?.getReader()
  assert.equal(Buffer.from((await reader?.read())?.value ?? []).toString(), 'data: 1\n\n')
  stop.abort(new Error('enough'))
  await assert.rejects(async () => reader?.read())
})

test('WebSockets can be pinned too', async () => {
  const { rig, port, fingerprint } = await apiRig()
  await using _ = rig
  const sockets = new WebSocketServer({ server: rig.http })
  sockets.on('connection', (socket) => socket.send('welcome'))
  const server = await pinServer({ host: '127.0.0.1', port, fingerprint, signal })
  const socket = new WebSocket(`wss://127.0.0.1:${port}/`, { agent: server.agent })
  const [data] = await once(socket, 'message')
  assert.equal(String(data), 'welcome')
  socket.terminate()
  server.agent.destroy()
})

test('a server that is not there, and a fingerprint that is none, are named', async () => {
  const { rig, url, fingerprint } = await apiRig()
  await rig[Symbol.asyncDispose]()
  await using fetch = pinnedFetch({ fingerprint })
  await assert.rejects(
    fetch(url),
    isFault('unavailable', /nothing listens at 127\.0\.0\.1:\d+; is the control plane running there/),
  )
  await assert.rejects(pinnedFetch({ fingerprint: 'abc' })(url), isFault('invalid', /64 hexadecimal digits/))
})

test('a server that was set up anew while we were connected is noticed', async () => {
  const first = await apiRig()
  await using fetch = pinnedFetch({ fingerprint: first.fingerprint })
  await (await fetch(first.url)).text()
  await first.rig[Symbol.asyncDispose]()
  const authority = await newAuthority('anew')
  const { certificate, key } = await issueServerCertificate({ authority, hosts: [], now: systemClock.now() })
  const http = createHttpServer()
  await using _port = await openPort({
    host: '127.0.0.1',
    port: first.port,
    certificate,
    key,
    ca: authority.caCertificate,
    http,
    onAgent: () => {},
    clock: systemClock,
  })
  await assert.rejects(fetch(first.url), isFault('unauthenticated', /presents another certificate authority/))
  http.close(() => {})
})
