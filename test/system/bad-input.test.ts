import assert from 'node:assert/strict'
import { cp, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Cluster } from './cluster.ts'

/** Each mistake ends in one clear sentence at the command line, an event at the job where there is one, and nothing half done. */

let cluster: Cluster

before(async () => {
  cluster = await Cluster.open()
  await cluster.startServer()
  await cluster.startAgent('node-a')
})

after(() => cluster[Symbol.asyncDispose]())

test('a mistake in a spec is told with its line, column and what would be right', async () => {
  const { code, stderr } = await cluster.run(['run', '-'], {
    input: 'name: web\ncuont: 3\ntasks:\n  web: { driver: process, command: ls }\n',
  })
  assert.equal(code, 2)
  assert.match(stderr, /2:1: "cuont" is not a key of a job; did you mean "count"\?/)
  assert.doesNotMatch(stderr, /\n\s+at /)
})

test('a job that fits nowhere says per rule how many nodes it lost and what would help', async () => {
  const input = 'name: big\ntasks:\n  main: { driver: process, command: ls, resources: { memory: 900GiB } }\n'
  const { code, stderr } = await cluster.run(['run', '--wait', '2s', '-'], { input })
  assert.notEqual(code, 0)
  assert.match(stderr, /no node can take "big".*1 lacks memory \(needs 900 GiB.*add a node/)
  const { events } = await (await cluster.client()).listEvents({ job: 'big' })
  assert.ok(events.some(({ kind }) => kind === 'job.blocked'))
})

test('an artifact with another checksum is refused, told at the job, and leaves nothing behind', async () => {
  await using files = await serve('#!/bin/sh\necho hello\n')
  const spec = {
    name: 'forged',
    type: 'batch' as const,
    reschedule: { attempts: 0 },
    restart: { attempts: 0 },
    tasks: {
      main: {
        driver: 'process' as const,
        command: 'local/hello',
        artifacts: [{ url: `${files.url}/hello`, checksum: `sha256:${'0'.repeat(64)}` }],
      },
    },
  }
  await writeFile(join(cluster.directory, 'forged.json'), JSON.stringify(spec))
  const { code, stderr } = await cluster.tutti('run', '--wait', '30s', join(cluster.directory, 'forged.json'))
  assert.notEqual(code, 0)
  assert.match(stderr, /checksum/)
  await using client = await cluster.client()
  const { events } = await client.listEvents({ job: 'forged' })
  assert.ok(
    events.some(({ level, message }) => level === 'error' && /checksum/.test(message)),
    JSON.stringify(events),
  )
})

test('a program that is not there ends a one-off with a sentence and exit code 125', async () => {
  const { code, stderr } = await cluster.tutti('run', '--driver', 'process', '--', '/no/such/program')
  assert.equal(code, 125)
  assert.match(stderr, /"\/no\/such\/program".*not found/)
})

test('a token that was revoked, expired or made up is refused with a sentence', async () => {
  const made = await cluster.json<{ secret: string }>('token', 'create', 'ci', '--role', 'compute:read')
  const withToken = (token: string) => cluster.run(['ps'], { env: { TUTTI_TOKEN: token } })
  assert.equal((await withToken(made.secret)).code, 0)
  const denied = await cluster.run(['stop', 'big'], { env: { TUTTI_TOKEN: made.secret } })
  assert.equal(denied.code, 4)
  assert.match(denied.stderr, /needs the role compute:write/)
  await cluster.tutti('token', 'revoke', 'ci')
  const revoked = await withToken(made.secret)
  assert.equal(revoked.code, 4)
  assert.match(revoked.stderr, /not known here/)
})

test('a join token that is used up buys nothing', async () => {
  const { secret } = await cluster.json<{ secret: string }>('token', 'create', '--join', '--uses', '1')
  const data = (name: string) => ['--data', join(cluster.directory, name)]
  const first = cluster.start('once', ['agent', '--join', secret, cluster.address, '--name', 'once', ...data('once')])
  await cluster.until('the first one joined', async () => (await cluster.nodes()).some(({ name }) => name === 'once'))
  await cluster.kill(first)
  const second = await cluster.tutti('agent', '--join', secret, cluster.address, '--name', 'twice', ...data('twice'))
  assert.notEqual(second.code, 0)
  assert.match(second.stderr, /used up/)
})

test('a second agent under a taken name is refused; one with a copied identity is turned away', async () => {
  const token = await cluster.joinToken()
  const taken = await cluster.tutti(
    'agent',
    '--join',
    token,
    cluster.address,
    '--name',
    'node-a',
    '--data',
    join(cluster.directory, 'other'),
  )
  assert.notEqual(taken.code, 0)
  assert.match(taken.stderr, /a node named "node-a" has joined already/)
  await cp(join(cluster.directory, 'node-a', 'identity.json'), join(cluster.directory, 'copy', 'identity.json'))
  const copy = cluster.start('copy', ['agent', '--data', join(cluster.directory, 'copy')])
  await cluster.until('the copy is told', async () =>
    /two agents cannot share one identity/.test(cluster.output.get('copy') ?? ''),
  )
  assert.ok((await cluster.nodes()).some(({ name, phase }) => name === 'node-a' && phase === 'ready'))
  await cluster.kill(copy)
})

test('a port that is taken, and a state directory that is in use, are named', async () => {
  const other = await cluster.tutti('server', '--listen', cluster.address, '--data', join(cluster.directory, 'second'))
  assert.match(other.stderr, /cannot listen on 127\.0\.0\.1:\d+: another program has the port/)
  const same = await cluster.tutti('server', '--listen', '127.0.0.1:0', '--data', join(cluster.directory, 'server'))
  assert.match(same.stderr, /another control plane is running with this state directory/)
})

test('a body that is too large, garbage and silence on the port harm nobody', async () => {
  const garbage = Array.from({ length: 20 }, (_, index) => {
    const socket = connect(cluster.port, '127.0.0.1')
    socket.on('error', () => {})
    if (index % 2 === 0) socket.write(Buffer.alloc(4096, index))
    return socket
  })
  await using client = await cluster.client()
  const large = await post(cluster.port, `{"spec":"${'x'.repeat(3 * 2 ** 20)}"}`)
  assert.ok(large === 'cut off' || large === 401 || large === 400, String(large))
  assert.ok((await client.status()).index > 0)
  for (const socket of garbage) socket.destroy()
})

test('a control plane that is not there is named, with what to do', async () => {
  const { code, stderr } = await cluster.run(['ps'], { env: { TUTTI_ADDR: '127.0.0.1:9' } })
  assert.equal(code, 5)
  assert.match(stderr, /cannot reach the control plane at https:\/\/127\.0\.0\.1:9.*tutti dev/)
})

async function serve(content: string): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer((_request, response) => response.end(content)).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

function post(port: number, body: string): Promise<number | 'cut off'> {
  return new Promise((resolve) => {
    const asking = request(
      {
        host: '127.0.0.1',
        port,
        path: '/v1/jobs/x',
        method: 'PUT',
        rejectUnauthorized: false,
        headers: { 'content-type': 'application/json' },
      },
      (response) => {
        response.resume()
        resolve(response.statusCode ?? 0)
      },
    )
    asking.on('error', () => resolve('cut off'))
    asking.end(body)
  })
}
