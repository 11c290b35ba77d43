import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { openOriginalDestination } from '../original-destination.ts'
import { reset } from '../reset.ts'
import { hello, places, rulesInside } from './island.ts'

/**
 * The only inhabitant of the island: a program of its own in namespaces that lead nowhere. What passt puts out for a guest
 * is led here by the packet filter, and goes on to the agent over a Unix socket with a line in front that says whose it is
 * and where to; the agent decides. When the agent is away everything is refused. `node inside.ts DIRECTORY`.
 */
const [directory = '.'] = process.argv.slice(2)
const relay = join(directory, places.relay)
const destinationOf = openOriginalDestination()
const most = 5000

execFileSync('ip', ['link', 'set', 'lo', 'up'])
execFileSync('ip', ['route', 'add', 'default', 'dev', 'lo'])

const tcp = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
  socket.on('error', () => {})
  const to = destinationOf(socket)
  if (to === undefined || socket.remoteAddress === undefined) return void socket.resetAndDestroy()
  pass(socket, hello({ source: socket.remoteAddress, ...to }))
})
tcp.maxConnections = most
tcp.listen(0, '127.0.0.1')
await once(tcp, 'listening')

const udp = createSocket('udp4')
let asking = 0
udp.on('error', () => {})
udp.on('message', (query, from) => {
  if (asking >= most) return
  asking += 1
  const upstream = connect({ path: relay, allowHalfOpen: true })
  const parts: Buffer[] = []
  upstream.on('data', (part: Buffer) => void parts.push(part))
  upstream.on('error', () => {})
  upstream.once('end', () => {
    const answer = Buffer.concat(parts)
    if (answer.length > 0) udp.send(answer, from.port, from.address, () => {})
    upstream.end()
  })
  upstream.once('close', () => {
    asking -= 1
  })
  upstream.write(hello({ source: from.address, query: query.toString('base64') }))
})
udp.bind(0, '127.0.0.1')
await once(udp, 'listening')

const rules = rulesInside({ tcp: (tcp.address() as { port: number }).port, dns: udp.address().port })
execFileSync('nft', ['-f', '-'], { input: rules })
writeFileSync(join(directory, places.ready), 'ready\n')

function pass(socket: Socket, line: string): void {
  const upstream = connect({ path: relay, allowHalfOpen: true })
  let heard = false
  upstream.on('error', () => reset(socket))
  upstream.once('data', () => {
    heard = true
  })
  // A refusal looks like silence from up there, and must not look like an answer down here.
  upstream.once('end', () => heard || reset(socket))
  upstream.once('close', () => socket.destroySoon())
  socket.once('close', () => upstream.destroySoon())
  upstream.write(line)
  upstream.pipe(socket)
  socket.pipe(upstream)
}
