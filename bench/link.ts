import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { Duplex } from 'node:stream'
import tls, { type TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Authority, createAuthority } from '../src/control/authority/authority.ts'
import { issueServerCertificate, signAgentRequest } from '../src/control/authority/issue.ts'
import { createHttpServer } from '../src/control/port/http-server.ts'
import { openPort } from '../src/control/port/port.ts'
import { systemClock as clock } from '../src/kit/system-clock.ts'
import { systemRandom as random } from '../src/kit/system-random.ts'
import { encodeId, NodeId } from '../src/model/ids.ts'
import { dialControl } from '../src/wire/http2/agent-side.ts'
import { createKeyAndRequest, type Identity } from '../src/wire/http2/identity.ts'
import type { AgentLink, ControlLink, StreamService } from '../src/wire/link.ts'
import { beatMs } from '../src/wire/messages.ts'

/**
 * The agent connection: what a call and a byte cost, next to a bare TLS socket and bare HTTP/2 in the same run on the
 * same cores, so that the ratios mean something on any machine; and what a thousand idle agents cost the control plane.
 *
 *   node bench/link.ts [--calls 5000] [--mebibytes 1024] [--agents 1000] [--seconds 30]
 *
 * `--calls 0` or `--agents 0` leaves a part out; memory is only worth looking at without the first.
 * The agents of the second part live in a process of their own. Prints a table and one line of JSON.
 */
const { values } = parseArgs({
  options: {
    calls: { type: 'string', default: '5000' },
    mebibytes: { type: 'string', default: '1024' },
    agents: { type: 'string', default: '1000' },
    seconds: { type: 'string', default: '30' },
  },
})
const never = new AbortController().signal
const piece = Buffer.alloc(256 * 1024, 'tutti')

async function main(): Promise<void> {
  const authority = await createAuthority({ name: 'bench', clock, random })
  const figures: Record<string, number> = {}
  if (Number(values.calls) > 0) Object.assign(figures, await measureLink(authority, Number(values.calls)))
  if (Number(values.agents) > 0) Object.assign(figures, await measureFleet(authority, Number(values.agents)))
  const rounded = Object.fromEntries(
    Object.entries(figures).map(([name, figure]) => [name, Number(figure.toPrecision(4))]),
  )
  console.table(rounded)
  console.log(JSON.stringify({ bench: 'link', ...rounded }))
}

async function measureLink(authority: Authority, calls: number): Promise<Record<string, number>> {
  const identity = await newIdentity(authority)
  const total = Number(values.mebibytes) * 2 ** 20
  const figures: Record<string, number> = {}
  {
    await using rig = await openRig(authority)
    const { agent, control } = await rig.connect(identity, services)
    Object.assign(figures, await measureCalls(control, calls))
    for (const streams of [1, 8]) {
      await pull(control, streams, total / 4)
      figures[`ours ${streams} MB/s`] = await pull(control, streams, total)
    }
    figures['message under bulk p50 ms'] = await messagesUnderBulk(agent, control)
    await agent[Symbol.asyncDispose]()
  }
  figures['raw TLS MB/s'] = await rawTls(authority, total)
  for (const streams of [1, 8]) figures[`bare HTTP/2 ${streams} MB/s`] = await bareHttp2(authority, streams, total)
  figures['ours 1 / raw TLS'] = ratio(figures, 'ours 1 MB/s', 'raw TLS MB/s')
  figures['ours 1 / bare HTTP/2 1'] = ratio(figures, 'ours 1 MB/s', 'bare HTTP/2 1 MB/s')
  figures['ours 8 / bare HTTP/2 8'] = ratio(figures, 'ours 8 MB/s', 'bare HTTP/2 8 MB/s')
  return figures
}

const services: Record<string, StreamService> = {
  call: async (_request, stream) => void stream.end(),
  bulk: async (request, stream, { signal }) => {
    const { bytes } = request as { bytes: number }
    for (let left = bytes; left > 0 && !signal.aborted; left -= piece.length) {
      await new Promise((resolve) => stream.write(piece, resolve))
    }
  },
}

async function measureCalls(control: AgentLink, count: number): Promise<Record<string, number>> {
  const call = async () => {
    const begin = clock.monotonic()
    const stream = await control.open('call', { n: 1 }, { signal: never })
    const took = clock.monotonic() - begin
    stream.end()
    stream.resume()
    return took
  }
  for (let n = 0; n < count / 4; n++) await call()
  const times: number[] = []
  for (let n = 0; n < count; n++) times.push(await call())
  times.sort((a, b) => a - b)
  const begin = clock.monotonic()
  let done = 0
  await Promise.all(
    Array.from({ length: 64 }, async () => {
      for (; done < count * 4; done++) await call()
    }),
  )
  const perSecond = (done / (clock.monotonic() - begin)) * 1000
  return { 'call p50 ms': at(times, 0.5), 'call p99 ms': at(times, 0.99), 'calls/s (64 at once)': perSecond }
}

async function pull(control: AgentLink, streams: number, total: number): Promise<number> {
  const begin = clock.monotonic()
  const counts = await Promise.all(
    Array.from({ length: streams }, async () => {
      const stream = await control.open('bulk', { bytes: total / streams }, { signal: never })
      stream.end()
      return drain(stream)
    }),
  )
  return megabytesPerSecond(
    counts.reduce((sum, count) => sum + count, 0),
    begin,
  )
}

async function messagesUnderBulk(agent: ControlLink, control: AgentLink): Promise<number> {
  const stop = new AbortController()
  const stream = await control.open('bulk', { bytes: Number.MAX_SAFE_INTEGER }, { signal: stop.signal })
  stream.resume()
  const messages = control.messages[Symbol.asyncIterator]()
  const times: number[] = []
  for (let n = 0; n < 300; n++) {
    const begin = clock.monotonic()
    await agent.send({ type: 'beat' })
    await messages.next()
    times.push(clock.monotonic() - begin)
  }
  stop.abort()
  return at(
    times.sort((a, b) => a - b),
    0.5,
  )
}

async function rawTls(authority: Authority, total: number): Promise<number> {
  const [sender, receiver, close] = await tlsPair(authority)
  const measure = async (bytes: number) => {
    const begin = clock.monotonic()
    void send(sender, bytes)
    let got = 0
    await new Promise<void>((resolve) => {
      receiver.on('data', function count(chunk: Buffer) {
        got += chunk.length
        if (got < bytes) return
        receiver.off('data', count)
        resolve()
      })
    })
    return megabytesPerSecond(got, begin)
  }
  await measure(total / 4)
  const figure = await measure(total)
  close()
  return figure
}

/** As we do it, without our code: roles turned round, one request per stream, the same windows. */
async function bareHttp2(authority: Authority, streams: number, total: number): Promise<number> {
  const [sender, receiver, close] = await tlsPair(authority)
  const { sessionOptions, connectionWindowBytes } = await import('../src/wire/http2/settings.ts')
  let bytes = 0
  const server = http2.performServerHandshake(sender, sessionOptions)
  server.on('stream', (stream) => {
    stream.respond({ ':status': 200 })
    void send(stream, bytes / streams).then(() => stream.end())
  })
  const client = http2.connect('https://bench', { ...sessionOptions, createConnection: () => receiver })
  await once(client, 'connect')
  client.setLocalWindowSize(connectionWindowBytes)
  const measure = async (count: number) => {
    bytes = count
    const begin = clock.monotonic()
    const got = await Promise.all(
      Array.from({ length: streams }, () => drain(client.request({ ':method': 'POST' }, { endStream: true }))),
    )
    return megabytesPerSecond(
      got.reduce((sum, one) => sum + one, 0),
      begin,
    )
  }
  await measure(total / 4)
  const figure = await measure(total)
  client.destroy()
  close()
  return figure
}

async function measureFleet(authority: Authority, count: number): Promise<Record<string, number>> {
  let beats = 0
  let connected = 0
  const before = memoryMiB()
  await using rig = await openRig(authority, (link) => {
    connected++
    void (async () => {
      for await (const message of link.messages) if (message.type === 'beat') beats++
    })().catch(() => {})
  })
  const identity = await newIdentity(authority)
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), { execArgv: process.execArgv })
  const begin = clock.monotonic()
  try {
    child.send({ port: rig.port, count, identity })
    while (connected < count) await clock.sleep(10)
    const joinMs = clock.monotonic() - begin
    await clock.sleep(2 * beatMs)
    const cpu = process.cpuUsage()
    const from = clock.monotonic()
    const beatsBefore = beats
    await clock.sleep(Number(values.seconds) * 1000)
    const used = process.cpuUsage(cpu)
    const ms = clock.monotonic() - from
    return {
      [`${count} agents: connected in s`]: joinMs / 1000,
      [`${count} agents: beats/s`]: ((beats - beatsBefore) / ms) * 1000,
      [`${count} agents: CPU % of a core`]: ((used.user + used.system) / 1000 / ms) * 100,
      [`${count} agents: RSS MiB`]: memoryMiB(),
      [`${count} agents: RSS MiB before`]: before,
    }
  } finally {
    child.kill('SIGKILL')
  }
}

/** The other process: agents that do nothing but beat. One identity serves all, as the transport does not mind. */
async function simulateAgents(): Promise<void> {
  const [message] = await once(process, 'message')
  const { port, count, identity } = message as { port: number; count: number; identity: Identity }
  const address = { host: '127.0.0.1', port }
  for (let batch = 0; batch < count; batch += 20) {
    await Promise.all(
      Array.from({ length: Math.min(20, count - batch) }, async () => {
        const link = await dialControl({ address, identity, services: {}, clock, signal: never, withinMs: 60_000 })
        void beat(link)
      }),
    )
  }
}

async function beat(link: ControlLink): Promise<void> {
  await clock.sleep(beatMs * random.fraction())
  for (;;) {
    await link.send({ type: 'beat' })
    await clock.sleep(beatMs)
  }
}

async function openRig(authority: Authority, onAgent: (link: AgentLink) => void = () => {}) {
  const { certificate, key } = await issueServerCertificate({ authority, hosts: [], now: clock.now() })
  let arrive = onAgent
  const http = createHttpServer()
  const port = await openPort({
    host: '127.0.0.1',
    port: 0,
    certificate,
    key,
    ca: authority.caCertificate,
    http,
    clock,
    limits: { handshakeMs: 60_000 },
    onAgent: (link) => arrive(link),
  })
  return {
    port: port.port,
    async connect(identity: Identity, served: Record<string, StreamService>) {
      const arrival = Promise.withResolvers<AgentLink>()
      arrive = arrival.resolve
      const address = { host: '127.0.0.1', port: port.port }
      const agent = await dialControl({ address, identity, services: served, clock, signal: never })
      return { agent, control: await arrival.promise }
    },
    async [Symbol.asyncDispose]() {
      http.close(() => {})
      await port[Symbol.asyncDispose]()
    },
  }
}

async function newIdentity(authority: Authority): Promise<Identity> {
  const { key, csr } = await createKeyAndRequest()
  const nodeId = NodeId.parse(encodeId(random.bytes(10)))
  const certificate = await signAgentRequest({ authority, csr, nodeId, now: clock.now() })
  return { key, certificate, ca: authority.caCertificate }
}

async function tlsPair(authority: Authority): Promise<[TLSSocket, TLSSocket, () => void]> {
  const { certificate, key } = await issueServerCertificate({ authority, hosts: [], now: clock.now() })
  const server = tls.createServer({ cert: certificate, key }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const sender = tls.connect({ port, host: '127.0.0.1', ca: authority.caCertificate })
  const [receiver] = (await once(server, 'secureConnection')) as [TLSSocket]
  const close = () => {
    sender.destroy()
    receiver.destroy()
    server.close()
  }
  return [sender, receiver, close]
}

async function send(stream: Duplex, bytes: number): Promise<void> {
  for (let left = bytes; left > 0; left -= piece.length) {
    if (!stream.write(piece)) await once(stream, 'drain')
  }
}

async function drain(stream: Duplex): Promise<number> {
  let bytes = 0
  stream.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  await once(stream, 'end')
  return bytes
}

function megabytesPerSecond(bytes: number, begin: number): number {
  return bytes / 1000 / (clock.monotonic() - begin)
}

function at(sorted: number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

function ratio(figures: Record<string, number>, one: string, other: string): number {
  return (figures[one] ?? 0) / (figures[other] ?? 1)
}

function memoryMiB(): number {
  return process.memoryUsage.rss() / 2 ** 20
}

if (process.send) await simulateAgents()
else await main()
