import assert from 'node:assert/strict'
import { request } from 'node:http'
import { test } from 'node:test'
import { createAccessToken, createJoinToken } from '../../src/control/actions/tokens.ts'
import { testFacts } from '../../src/control/testing.ts'
import { silentLog } from '../../src/kit/log.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { systemRandom } from '../../src/kit/system-random.ts'
import type { NodeIdentity } from '../../src/main/identity.ts'
import { joinCluster, renew } from '../../src/main/join.ts'
import { type RunningServer, startServer } from '../../src/main/server.ts'
import { MemoryEngine } from '../../src/store/memory/memory-engine.ts'
import { dialControl } from '../../src/wire/http2/agent-side.ts'
import type { ControlLink } from '../../src/wire/link.ts'
import { freePort } from './cluster.ts'

/** How a machine becomes a node and stays one, over real sockets. */

const signal = new AbortController().signal
const options = { clock: systemClock, signal }

async function open(plainPort?: number): Promise<RunningServer> {
  return startServer({
    engine: new MemoryEngine(),
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    listen: { host: '127.0.0.1', port: 0 },
    plainListen: plainPort === undefined ? undefined : { host: '127.0.0.1', port: plainPort },
    clusterName: 'test',
  })
}

async function join(server: RunningServer, name: string, change = (token: string) => token): Promise<NodeIdentity> {
  const { token } = await createJoinToken(server.control, {
    by: 'test',
    name: `for-${name}`,
    expiresInMs: 60_000,
    uses: 1,
    labels: {},
    caFingerprint: server.caFingerprint,
  })
  return joinCluster({ ...options, token: change(token), address: { host: '127.0.0.1', port: server.port }, name })
}

/** Says hello and waits for the answer: the first message of the control plane. */
async function greet(identity: NodeIdentity): Promise<string> {
  const link: ControlLink = await dialControl({
    address: identity.address,
    identity,
    services: {},
    clock: systemClock,
    signal,
  })
  await link.send({
    type: 'hello',
    node: identity.node,
    name: identity.name,
    instance: 'test',
    now: systemClock.now(),
    facts: testFacts,
  })
  for await (const message of link.messages) {
    await link[Symbol.asyncDispose]()
    return message.type === 'goodbye' ? `goodbye: ${message.message}` : message.type
  }
  return 'nothing'
}

test('a machine joins, is welcomed, and renews its certificate without ever being locked out', async () => {
  await using server = await open()
  const identity = await join(server, 'node-a')
  assert.equal(await greet(identity), 'welcome')
  const renewed = await renew(identity, options)
  assert.notEqual(renewed.certificate, identity.certificate)
  // The answer may be lost on its way: until the new key was used, the old one is good.
  assert.equal(await greet(identity), 'welcome')
  assert.equal(await greet(renewed), 'welcome')
  assert.match(await greet(identity), /goodbye: the certificate of node "node-a" has been replaced/)
  await assert.rejects(renew(identity, options), /newest certificate of its node/)
})

test('a join token of another cluster, or one that was cut, is refused before anything is told to the server', async () => {
  await using server = await open()
  await assert.rejects(
    join(server, 'node-a', (token) => `${token.slice(0, -64)}${'0'.repeat(64)}`),
    /another certificate authority|another authority/,
  )
  await assert.rejects(
    join(server, 'node-b', (token) => token.slice(0, -1)),
    /not a join token/,
  )
  assert.equal(server.control.store.view.count('nodes'), 0)
})

test('a removed node is told to join again', async () => {
  await using server = await open()
  const identity = await join(server, 'node-a')
  await server.control.store.write((tx) => tx.delete('nodes', identity.node))
  assert.match(await greet(identity), /goodbye: this node was removed from the cluster; join it again/)
})

test('plain HTTP is served on loopback when asked for, with a token as ever, and nowhere else', async () => {
  const port = await freePort('127.0.0.1')
  await using server = await open(port)
  assert.equal(await plainStatus(port), 401)
  const { token } = await createAccessToken(server.control, {
    by: 'test',
    name: 'ci',
    roles: ['compute:read'],
    expiresInMs: null,
  })
  assert.equal(await plainStatus(port, token), 200)
  await assert.rejects(
    startServer({
      engine: new MemoryEngine(),
      clock: systemClock,
      random: systemRandom,
      log: silentLog,
      listen: { host: '127.0.0.1', port: 0 },
      plainListen: { host: '0.0.0.0', port: 0 },
      clusterName: 'test',
    }),
    /cannot serve plain HTTP on 0\.0\.0\.0/,
  )
})

function plainStatus(port: number, token?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` }
    const asking = request({ host: '127.0.0.1', port, path: '/v1/status', headers, agent: false }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
    asking.on('error', reject)
    asking.end()
  })
}
