import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { after, before, test } from 'node:test'
import { chooseContext } from '../../src/cli/contexts.ts'
import { findHome } from '../../src/cli/home.ts'
import { type Client, createClient } from '../../src/client/client.ts'
import type { Execution } from '../../src/client/exec.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { Cluster } from './cluster.ts'

/** The way in, from a client through control plane and agent to a process and back. */

let cluster: Cluster
let allocation = ''

before(async () => {
  cluster = await Cluster.open()
  await cluster.startServer()
  await cluster.startAgent('node-a')
  await using client = await cluster.client()
  const main = { driver: 'process' as const, command: ['/bin/sleep', '100000'], kill: { grace: 0 } }
  await client.applyJob({ job: 'sleeper', body: { spec: { name: 'sleeper', tasks: { main } } } })
  await cluster.until('the task runs', async () => {
    const { allocations } = await client.jobAllocations({ job: 'sleeper' })
    allocation = allocations.find(({ phase }) => phase === 'running')?.id ?? ''
    return allocation !== ''
  })
})

after(async () => {
  await cluster[Symbol.asyncDispose]()
})

async function shell(client: Client, script: string, input = '') {
  const execution = await client.exec({ allocation }, { command: ['/bin/sh', '-c', script] })
  return finish(execution, input)
}

async function finish(execution: Execution, input: string) {
  execution.stdin.end(input)
  const [out, err, { code }] = await Promise.all([text(execution.stdout), text(execution.stderr), execution.exited])
  return { out, err, code }
}

test('commands one after the other each get their own input, output and code', async () => {
  await using client = await cluster.client()
  for (let round = 0; round < 20; round++) {
    // Every other one ends before it has read its input.
    const script = round % 2 === 0 ? `cat; echo err${round} >&2; exit ${round}` : `echo out; exit ${round}`
    const { out, err, code } = await shell(client, script, `input ${round}\n`)
    assert.equal(code, round)
    assert.equal(out, round % 2 === 0 ? `input ${round}\n` : 'out\n')
    assert.equal(err, round % 2 === 0 ? `err${round}\n` : '')
  }
})

test('commands at the same time do not hear each other', async () => {
  await using client = await cluster.client()
  for (let round = 0; round < 2; round++) {
    const all = Array.from({ length: 10 }, (_, index) => shell(client, 'cat', `${index}\n`.repeat(20_000)))
    for (const [index, { out, code }] of (await Promise.all(all)).entries()) {
      assert.equal(code, 0)
      assert.ok(out === `${index}\n`.repeat(20_000), `command ${index} said something else`)
    }
  }
})

test('a command that cannot be started, or is given up, does not disturb the next', async () => {
  await using client = await cluster.client()
  assert.equal((await shell(client, 'exit 4')).code, 4)
  await assert.rejects(client.exec({ allocation }, { command: ['nosuch'] }), { code: 'invalid' })
  const stop = new AbortController()
  const endless = await client.exec({ allocation }, { command: ['/bin/sleep', '1000'] }, { signal: stop.signal })
  stop.abort(new Error('enough'))
  await assert.rejects(endless.exited, { message: 'enough' })
  assert.equal((await shell(client, 'exit 5')).code, 5)
})

test('a revoked token opens no further command, on a connection that it opened neither', async () => {
  await using admin = await cluster.client()
  const { secret } = await admin.createToken({
    body: { name: 'guest', roles: ['compute:connect'], expiresInMs: null },
  })
  const { url, caFingerprint } = await chooseContext(findHome({ env: { TUTTI_HOME: cluster.home } }), {})
  await using client = createClient({ url, caFingerprint, token: secret, clock: systemClock })
  assert.equal((await shell(client, 'exit 6')).code, 6)
  await admin.revokeToken({ token: 'guest' })
  await assert.rejects(shell(client, 'exit 7'), { code: 'unauthenticated' })
})

test('what is kept for the next command does not keep a program alive', async () => {
  const program = `
    import { createClient } from '${new URL('../../src/client/client.ts', import.meta.url).pathname}'
    const { url, caFingerprint, token, allocation } = JSON.parse(process.argv[1])
    const client = createClient({ url, caFingerprint, token, clock: undefined })
    const execution = await client.exec({ allocation }, { command: ['/bin/echo', 'hello'] })
    execution.stdin.end()
    execution.stdout.pipe(process.stdout)
    await execution.exited`
  const { url, caFingerprint, token } = await chooseContext(findHome({ env: { TUTTI_HOME: cluster.home } }), {})
  const { execFile } = await import('node:child_process')
  const { promisify } = await import('node:util')
  const given = JSON.stringify({ url, caFingerprint, token, allocation })
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program, given], {
    timeout: 20_000,
  })
  assert.equal(stdout, 'hello\n')
})
