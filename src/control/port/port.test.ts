import assert from 'node:assert/strict'
import { once } from 'node:events'
import http2 from 'node:http2'
import https from 'node:https'
import { createServer, connect as dialTcp } from 'node:net'
import { test } from 'node:test'
import tls from 'node:tls'
import Fastify from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import { all, isFault, take, until } from '../../../test/conformance/link.ts'
import { newAuthority, type PortRig, portRig } from '../../../test/conformance/port-rig.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { dialControl } from '../../wire/http2/agent-side.ts'
import { agentProtocol } from '../../wire/messages.ts'
import { issueServerCertificate } from '../authority/issue.ts'
import { openPlainPort } from './plain.ts'
import { openPort } from './port.ts'

const signal = AbortSignal.timeout(60_000)

function check(title: string, body: () => Promise<void>): void {
  test(title, { timeout: 30_000 }, body)
}

check('agents and API clients share the port', async () => {
  await using rig = await portRig()
  rig.http.on('request', (_request, response) => response.end('the API'))
  const one = await rig.connect()
  const other = await rig.connect()
  assert.deepEqual(await get(rig, '/'), { status: 200, body: 'the API' })
  await one.agent.send({ type: 'beat' })
  await other.agent.send({ type: 'resync' })
  assert.deepEqual(await take(one.control.messages, 1), [{ type: 'beat' }])
  assert.deepEqual(await take(other.control.messages, 1), [{ type: 'resync' }])
})

check('fastify serves its routes on the port', async () => {
  await using rig = await portRig()
  const app = Fastify({
    serverFactory: (handler) => {
      rig.http.on('request', handler)
      return rig.http
    },
  })
  app.get('/v1/jobs', async () => ({ jobs: [] }))
  await app.ready()
  assert.deepEqual(await get(rig, '/v1/jobs'), { status: 200, body: '{"jobs":[]}' })
  await app.close()
})

check('WebSockets work on the port', async () => {
  await using rig = await portRig()
  const sockets = new WebSocketServer({ server: rig.http })
  sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(`heard ${data}`)))
  const socket = new WebSocket(`wss://127.0.0.1:${rig.port.port}/exec`, { ca: rig.authority.caCertificate })
  await once(socket, 'open')
  socket.send('hello')
  const [data] = await once(socket, 'message')
  assert.equal(String(data), 'heard hello')
  socket.terminate()
})

check('an agent without a certificate is told to join', async () => {
  await using rig = await portRig()
  assert.match(await refusalOf(rig, {}), /no client certificate; let the machine join/)
  assert.equal(rig.arrived.length, 0)
})

check('an agent with the certificate of another authority is told so', async () => {
  await using rig = await portRig()
  const { identity } = await rig.identity({ authority: await newAuthority('other') })
  await assert.rejects(
    rig.dial(identity),
    isFault('unauthenticated', /refused this agent: .*not issued by this control plane/),
  )
  assert.equal(rig.arrived.length, 0)
})

check('an agent whose certificate has expired is told when it did', async () => {
  await using rig = await portRig()
  const { identity } = await rig.identity({ now: systemClock.now() - 40 * 86_400_000 })
  await assert.rejects(rig.dial(identity), isFault('unauthenticated', /expired on .* GMT; let the machine join again/))
})

check('a server certificate does not pass for an agent', async () => {
  await using rig = await portRig()
  const { certificate, key } = await issueServerCertificate({
    authority: rig.authority,
    hosts: [],
    now: systemClock.now(),
  })
  const identity = { certificate, key, ca: rig.authority.caCertificate }
  await assert.rejects(rig.dial(identity), isFault('unauthenticated', /not one for agents/))
})

check('an agent does not talk to a control plane of another authority', async () => {
  await using rig = await portRig()
  await using other = await portRig()
  const { identity } = await rig.identity()
  await assert.rejects(other.dial(identity), isFault('unauthenticated', /certificate of another authority/))
})

check('an agent cannot pass for the control plane', async () => {
  await using rig = await portRig()
  const { identity: bad } = await rig.identity()
  const server = tls.createServer({ cert: bad.certificate, key: bad.key, ALPNProtocols: [agentProtocol] })
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const { identity } = await rig.identity()
  const dialling = dialControl({
    address: { host: '127.0.0.1', port },
    identity,
    services: {},
    clock: systemClock,
    signal,
  })
  await assert.rejects(dialling, isFault('unauthenticated'))
  server.close()
})

check('an agent that dials something else is told that it is no control plane', async () => {
  await using rig = await portRig()
  const { identity } = await rig.identity()
  const { certificate, key } = await issueServerCertificate({
    authority: rig.authority,
    hosts: [],
    now: systemClock.now(),
  })
  for (const protocols of [['http/1.1'], undefined]) {
    const server = https.createServer({ cert: certificate, key, ...(protocols && { ALPNProtocols: protocols }) })
    server.on('tlsClientError', () => {})
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const dialling = dialControl({
      address: { host: 'localhost', port },
      identity,
      services: {},
      clock: systemClock,
      signal,
    })
    await assert.rejects(dialling, isFault('unavailable', /does not speak tutti-agent\/1/))
    server.close()
    server.closeAllConnections()
  }
})

check('dialling where nothing listens says so, and so does a name that does not exist', async () => {
  await using rig = await portRig()
  const { identity } = await rig.identity()
  const dial = (host: string, port: number) =>
    dialControl({ address: { host, port }, identity, services: {}, clock: systemClock, signal })
  const closed = await unusedPort()
  await assert.rejects(dial('127.0.0.1', closed), isFault('unavailable', /nothing listens at 127\.0\.0\.1:\d+/))
  await assert.rejects(dial('no-such-host.invalid', 1), isFault('unavailable', /cannot be resolved/))
})

check('dialling can be given up', async () => {
  // It accepts the connection and then says nothing.
  const silent = createServer(() => {}).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as { port: number }
  await using rig = await portRig()
  const { identity } = await rig.identity()
  const options = { address: { host: '127.0.0.1', port }, identity, services: {}, clock: systemClock }
  const stop = new AbortController()
  const dialling = dialControl({ ...options, signal: stop.signal })
  stop.abort(new Error('the agent is shutting down'))
  await assert.rejects(dialling, /shutting down/)
  await assert.rejects(
    dialControl({ ...options, signal, withinMs: 20 }),
    isFault('unavailable', /did not answer in time/),
  )
  silent.close()
})

check('a protocol nobody knows is refused in the handshake', async () => {
  await using rig = await portRig()
  const socket = tls.connect({
    port: rig.port.port,
    host: '127.0.0.1',
    ca: rig.authority.caCertificate,
    ALPNProtocols: ['h2'],
  })
  const [error] = await once(socket, 'error')
  assert.match(String(error), /no application protocol/i)
})

check('garbage, silence and dribble are cut off, and an agent beside them notices nothing', async () => {
  await using rig = await portRig({ port: { handshakeMs: 300 }, http: { headersMs: 300 } })
  rig.http.on('request', (_request, response) => response.end('the API'))
  const { agent, control } = await rig.connect()
  const { identity } = await rig.identity()
  const ca = rig.authority.caCertificate
  const plain = () => dialTcp(rig.port.port, '127.0.0.1')
  const secure = (protocol: string) =>
    tls.connect({ port: rig.port.port, host: '127.0.0.1', ca, ALPNProtocols: [protocol] })
  const silent = plain()
  const garbage = plain()
  garbage.write(Buffer.alloc(5000, 0xff))
  const http = plain()
  http.write('GET / HTTP/1.1\r\n\r\n')
  const dribble = plain()
  const slowHeaders = secure('http/1.1')
  slowHeaders.write('GET / HTTP/1.1\r\nx: ')
  const silentHttp = secure('http/1.1')
  const wrongHttp = secure('http/1.1')
  wrongHttp.write('\0\x01\x02\r\n\r\n')
  const hugeHeaders = secure('http/1.1')
  hugeHeaders.write(`GET / HTTP/1.1\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`)
  // TLS and a certificate of ours, but then no HTTP/2.
  const own = {
    port: rig.port.port,
    host: '127.0.0.1',
    ca,
    cert: identity.certificate,
    key: identity.key,
    ALPNProtocols: [agentProtocol],
  }
  const silentAgent = tls.connect(own)
  const wrongAgent = tls.connect(own)
  wrongAgent.write(Buffer.alloc(10_000, 'x'))
  const bad = {
    silent,
    garbage,
    http,
    dribble,
    slowHeaders,
    silentHttp,
    wrongHttp,
    hugeHeaders,
    silentAgent,
    wrongAgent,
  }
  const drip = setInterval(() => {
    if (dribble.writable) dribble.write('\x16')
    if (slowHeaders.writable) slowHeaders.write('y')
  }, 50)
  const open = new Set(Object.keys(bad))
  for (const [name, socket] of Object.entries(bad)) {
    socket.on('error', () => {})
    socket.on('close', () => open.delete(name))
    socket.resume()
  }
  try {
    await until(() => open.size === 0)
  } finally {
    clearInterval(drip)
  }
  await agent.send({ type: 'beat' })
  assert.deepEqual(await take(control.messages, 1), [{ type: 'beat' }])
  assert.deepEqual(await get(rig, '/'), { status: 200, body: 'the API' })
  assert.equal(rig.arrived.length, 1)
})

check('an agent whose line never ends is cut off', async () => {
  await using rig = await portRig()
  const { node, identity } = await rig.identity()
  const socket = tls.connect({
    port: rig.port.port,
    host: '127.0.0.1',
    ca: rig.authority.caCertificate,
    cert: identity.certificate,
    key: identity.key,
    ALPNProtocols: [agentProtocol],
  })
  await once(socket, 'secureConnect')
  const session = http2.performServerHandshake(socket)
  session.on('error', () => {})
  session.on('stream', (stream) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200 })
    const piece = Buffer.alloc(2 ** 20, 'x')
    const more = () => void (stream.destroyed || stream.write(piece, (error) => error || more()))
    more()
  })
  await until(() => rig.arrived.length === 1)
  const [link] = rig.arrived
  assert.equal(link?.peer.node, node)
  await assert.rejects(all(link?.messages ?? []), isFault('invalid', /over the limit/))
  await until(() => session.destroyed)
})

check('a new certificate is shown from now on, and connections that live are not disturbed', async () => {
  await using rig = await portRig()
  const { agent, control } = await rig.connect()
  const before = await shownSerial(rig)
  rig.port.replaceCertificate(
    await issueServerCertificate({ authority: rig.authority, hosts: ['new.example.com'], now: systemClock.now() }),
  )
  assert.notEqual(await shownSerial(rig), before)
  await rig.connect()
  await agent.send({ type: 'beat' })
  assert.deepEqual(await take(control.messages, 1), [{ type: 'beat' }])
})

check('a port in use is named, with what to do about it', async () => {
  await using rig = await portRig()
  const { certificate, key } = await issueServerCertificate({
    authority: rig.authority,
    hosts: [],
    now: systemClock.now(),
  })
  const options = {
    certificate,
    key,
    ca: rig.authority.caCertificate,
    http: rig.http,
    onAgent: () => {},
    clock: systemClock,
  }
  const { port } = rig.port
  await assert.rejects(
    openPort({ ...options, host: '127.0.0.1', port }),
    isFault(
      'conflict',
      new RegExp(`cannot listen on 127\\.0\\.0\\.1:${port}: another program has the port; .*--listen`),
    ),
  )
  await assert.rejects(
    openPort({ ...options, host: '192.0.2.1', port: 0 }),
    isFault('invalid', /does not have that address/),
  )
})

check('one connection too many is turned away, and there is room again when one has left', async () => {
  await using rig = await portRig({ port: { maxConnections: 2 } })
  rig.http.on('request', (_request, response) => response.end('the API'))
  const held = [dialTcp(rig.port.port, '127.0.0.1'), dialTcp(rig.port.port, '127.0.0.1')]
  await Promise.all(held.map((socket) => once(socket, 'connect')))
  await assert.rejects(get(rig, '/'))
  held[0]?.destroy()
  const answered = async () => (await get(rig, '/').catch(() => undefined))?.status === 200
  while (!(await answered()));
  held[1]?.destroy()
})

check('plain HTTP is served on loopback and nowhere else', async () => {
  await using rig = await portRig()
  rig.http.on('request', (_request, response) => response.end('the API'))
  {
    await using plain = await openPlainPort({ host: '127.0.0.1', port: 0, http: rig.http })
    const response = await fetch(`http://127.0.0.1:${plain.port}/`)
    assert.equal(await response.text(), 'the API')
  }
  for (const host of ['0.0.0.0', '::', '192.0.2.1', 'example.com', '127.0.0.1.example.com']) {
    await assert.rejects(openPlainPort({ host, port: 0, http: rig.http }), isFault('invalid', /only on 127\.0\.0\.1/))
  }
})

check('a control plane that is silent for a lease is given up by its agent', async () => {
  await using rig = await portRig()
  const { identity } = await rig.identity()
  const { SteppedClock } = await import('../../kit/stepped-clock.ts')
  const clock = new SteppedClock()
  // Between the two, a line that stops carrying anything without telling anybody.
  let cut = false
  const relay = createServer((near) => {
    const far = dialTcp(rig.port.port, '127.0.0.1')
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on('error', () => {}).on('close', () => other.destroy())
      one.on('data', (chunk) => cut || other.write(chunk))
    }
  }).listen(0, '127.0.0.1')
  await once(relay, 'listening')
  const address = { host: '127.0.0.1', port: (relay.address() as { port: number }).port }
  const link = await dialControl({ address, identity, services: {}, clock, signal })
  let isLost = false
  const lost = assert.rejects(all(link.messages), isFault('unavailable')).then(() => {
    isLost = true
  })
  cut = true
  await clock.until(() => isLost, { withinMs: 20_000 })
  await lost
  relay.close()
})

/** What an agent that shows this is told in the GOAWAY. */
async function refusalOf(rig: PortRig, shown: { cert?: string; key?: string }): Promise<string> {
  const { port } = rig.port
  const socket = tls.connect({
    port,
    host: '127.0.0.1',
    ca: rig.authority.caCertificate,
    ALPNProtocols: [agentProtocol],
    ...shown,
  })
  await once(socket, 'secureConnect')
  const session = http2.performServerHandshake(socket)
  session.on('error', () => {})
  const [, , data] = await once(session, 'goaway')
  return String(data)
}

function get(rig: PortRig, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const options = {
      host: '127.0.0.1',
      port: rig.port.port,
      path,
      ca: rig.authority.caCertificate,
      agent: false as const,
    }
    https
      .get(options, async (response) => {
        let body = ''
        for await (const chunk of response) body += chunk
        resolve({ status: response.statusCode ?? 0, body })
      })
      .on('error', reject)
  })
}

async function shownSerial(rig: PortRig): Promise<string> {
  const socket = tls.connect({ port: rig.port.port, host: '127.0.0.1', ca: rig.authority.caCertificate })
  await once(socket, 'secureConnect')
  const serial = socket.getPeerCertificate().serialNumber
  socket.destroy()
  return serial
}

async function unusedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}
