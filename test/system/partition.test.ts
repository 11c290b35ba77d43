import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Client } from '../../src/client/client.ts'
import { Cluster } from './cluster.ts'
import { openNamespace, whyNoNamespaces } from './namespace.ts'

const lacking = await whyNoNamespaces()

test(`a node cut off for longer than its lease has its copies replaced, and healed ends with exactly what is wanted${lacking ? ` (skipped: ${lacking})` : ''}`, {
  skip: lacking,
}, async () => {
  await using island = await openNamespace()
  await using cluster = await Cluster.open({ host: island.host })
  await cluster.startServer()
  await cluster.startAgent('mainland')
  await cluster.startAgent('island', { through: island.through })
  await using client = await cluster.client()
  const count = 4
  const spec = {
    name: 'web',
    count,
    tasks: { main: { driver: 'process' as const, command: ['/bin/sleep', '1000000'], resources: { memory: '8MiB' } } },
  }
  await client.applyJob({ job: 'web', body: { spec } })
  await cluster.until('all copies run on both nodes', async () => {
    const live = await liveOf(client)
    return live.length === count && live.every((row) => row.healthy) && new Set(live.map((row) => row.node)).size === 2
  })
  const before = await liveOf(client)
  const islandNode = (await cluster.nodes()).find((node) => node.name === 'island')
  assert.ok(islandNode)
  const cutOff = before.filter((row) => row.node === islandNode.id)

  await island.cut()
  await cluster.until('the island is lost and its copies run on the mainland', async () => {
    const live = await liveOf(client)
    return live.length === count && live.every((row) => row.healthy && row.node !== islandNode.id)
  })
  for (const row of cutOff) process.kill(row.tasks.main?.pid ?? -1, 0)

  await island.heal()
  await cluster.until('the island is back', async () => (await cluster.nodes()).every((node) => node.phase === 'ready'))
  await cluster.until('what it still ran has ended', async () =>
    cutOff.every((row) => isGone(row.tasks.main?.pid ?? -1)),
  )
  const after = await liveOf(client)
  assert.equal(after.length, count)
  assert.ok(after.every((row) => row.healthy))
})

async function liveOf(client: Client) {
  const { allocations } = await client.listAllocations({ job: 'web', live: true })
  return allocations
}

function isGone(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return false
  } catch {
    return true
  }
}
