import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../../src/client/client.ts'
import type { JobInput } from '../../src/model/job.ts'
import { Cluster } from './cluster.ts'

/** Real processes, really killed. */

const sleeper: JobInput = {
  name: 'sleeper',
  count: 3,
  tasks: { main: { driver: 'process', command: ['/bin/sleep', '1000000'], resources: { memory: '8MiB' } } },
}

test('a control plane that is killed a hundred times under load loses no acknowledged write', async () => {
  await using cluster = await Cluster.open()
  let server = await cluster.startServer()
  await using client = await cluster.client()
  const acknowledged = new Map<string, number>()
  const stop = new AbortController()
  const writers = Array.from({ length: 4 }, (_, writer) =>
    keepWriting(client, `job-${writer}`, acknowledged, stop.signal),
  )
  const rounds = 100
  for (let round = 0; round < rounds; round++) {
    const before = total(acknowledged)
    await cluster.until('some writes are acknowledged', async () => total(acknowledged) > before + 3)
    await sleep(Math.random() * 30)
    await cluster.kill(server)
    const known = new Map(acknowledged)
    server = cluster.start('server', ['server', '--listen', cluster.address, '--data', `${cluster.directory}/server`])
    await cluster.until('the control plane answers again', async () => {
      assert.equal(server.exitCode, null)
      return (await client.status()).index > 0
    })
    for (const [job, version] of known) {
      const stored = (await client.getJob({ job })).job.version
      assert.ok(stored >= version, `round ${round}: version ${version} of ${job} was acknowledged, ${stored} is stored`)
    }
  }
  stop.abort()
  await Promise.all(writers)
})

test('an agent that is killed ten times finds its tasks again: the same pids, no restart counted', async () => {
  await using cluster = await Cluster.open()
  await cluster.startServer()
  let agent = await cluster.startAgent('node-a')
  await using client = await cluster.client()
  await client.applyJob({ job: 'sleeper', body: { spec: sleeper } })
  await cluster.until('all copies run', async () => (await healthy(client, 'sleeper')) === 3)
  const pids = await pidsOf(client, 'sleeper')
  assert.equal(new Set(pids).size, 3)
  for (let round = 0; round < 10; round++) {
    await cluster.kill(agent)
    agent = await cluster.startAgent('node-a')
  }
  await cluster.until('all copies are healthy', async () => (await healthy(client, 'sleeper')) === 3)
  assert.deepEqual(await pidsOf(client, 'sleeper'), pids)
  const { allocations } = await client.jobAllocations({ job: 'sleeper' })
  assert.equal(allocations.length, 3)
  assert.ok(allocations.every((row) => row.tasks.main?.restarts === 0))
  for (const pid of pids) process.kill(pid, 0)
})

test('tasks do not notice that the control plane is restarted, and what ended meanwhile is known afterwards', async () => {
  await using cluster = await Cluster.open()
  const server = await cluster.startServer()
  await cluster.startAgent('node-a')
  await using client = await cluster.client()
  await client.applyJob({ job: 'sleeper', body: { spec: sleeper } })
  await cluster.until('all copies run', async () => (await healthy(client, 'sleeper')) === 3)
  const pids = await pidsOf(client, 'sleeper')
  const [victim = 0, ...others] = pids
  await cluster.kill(server)
  process.kill(victim, 'SIGKILL')
  await cluster.startServer()
  await cluster.until('the killed copy runs again', async () => {
    const now = await pidsOf(client, 'sleeper')
    return now.length === 3 && !now.includes(victim) && (await healthy(client, 'sleeper')) === 3
  })
  const now = await pidsOf(client, 'sleeper')
  for (const pid of others) assert.ok(now.includes(pid), 'the other copies kept their pids')
})

async function keepWriting(
  client: Client,
  job: string,
  acknowledged: Map<string, number>,
  signal: AbortSignal,
): Promise<void> {
  for (let count = 0; !signal.aborted; count++) {
    try {
      const env = { COUNT: String(count) }
      const spec: JobInput = {
        name: job,
        tasks: { main: { driver: 'process', command: '/bin/true', env } },
        constraints: ['node == nowhere'],
      }
      const { version } = await client.applyJob({ job, body: { spec } })
      acknowledged.set(job, version)
    } catch {
      // Killed while it was asked: not acknowledged, so nothing is promised.
      await sleep(20)
    }
  }
}

function total(acknowledged: Map<string, number>): number {
  return [...acknowledged.values()].reduce((sum, version) => sum + version, 0)
}

async function healthy(client: Client, job: string): Promise<number> {
  return (await client.getJob({ job })).job.copies.healthy
}

async function pidsOf(client: Client, job: string): Promise<number[]> {
  const { allocations } = await client.getJob({ job })
  return allocations.map((row) => row.tasks.main?.pid ?? 0).sort((a, b) => a - b)
}
