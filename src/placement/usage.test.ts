import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Allocation } from '../model/allocation.ts'
import { JobSpec } from '../model/job.ts'
import { ToyCluster, toyFacts, toyJob } from './toy-cluster.ts'
import { Usage } from './usage.ts'

const node = new ToyCluster().addNode('a', { ports: [30_000, 30_010] })
const spec = JobSpec.parse(
  toyJob(
    'web',
    { ports: { http: 'dynamic', ssh: 22 } },
    { resources: { cores: 0.1, memory: '1GiB', disk: '1GiB', counters: { gpu: 1 } } },
  ),
)
const allocation = (id: string) => ({ id: id as Allocation['id'], node: node.id, ports: { http: 30_001, ssh: 22 } })

test('an allocation told of twice is counted once, and forgotten twice is taken off once', () => {
  const usage = new Usage()
  usage.setNode(node)
  const clean = amounts(usage)
  usage.add(allocation('x'), spec)
  const once = amounts(usage)
  usage.add(allocation('x'), spec)
  assert.deepEqual(amounts(usage), once)
  assert.notDeepEqual(once, clean)
  usage.remove({ id: allocation('x').id })
  usage.remove({ id: allocation('x').id })
  assert.deepEqual(amounts(usage), clean)
})

test('ten thousand fractions of a core come and go without a remainder', () => {
  const usage = new Usage()
  usage.setNode(node)
  const clean = amounts(usage)
  for (let round = 0; round < 10_000; round += 1) usage.add(allocation(`x${round}`), spec)
  for (let round = 0; round < 10_000; round += 1) usage.remove(allocation(`x${round}`))
  assert.deepEqual(amounts(usage), clean)
})

test('what was held before its node was known is counted when the node is', () => {
  const usage = new Usage()
  usage.add(allocation('x'), spec)
  usage.setNode(node)
  const other = new Usage()
  other.setNode(node)
  other.add(allocation('x'), spec)
  assert.deepEqual(amounts(usage), amounts(other))
  assert.equal(amounts(usage).dynamicPorts, 1)
})

test('a node that changes its range of dynamic ports counts those in use anew', () => {
  const usage = new Usage()
  usage.setNode(node)
  usage.add(allocation('x'), spec)
  usage.setNode({ ...node, facts: toyFacts('a', { ports: [20, 30] }) })
  assert.equal(amounts(usage).dynamicPorts, 1, 'port 22 is in the range now, and 30001 is not')
  usage.remove(allocation('x'))
  assert.equal(amounts(usage).dynamicPorts, 0)
})

test('hundreds of nodes keep what they hold apart', () => {
  const cluster = new ToyCluster()
  const usage = new Usage()
  const nodes = Array.from({ length: 300 }, (_, index) => cluster.addNode(`n${index}`))
  for (const each of nodes) {
    usage.setNode(each)
    usage.add({ ...allocation(each.name), node: each.id }, spec)
  }
  for (const each of nodes) {
    const row = usage.row(each.id)
    assert.ok(row !== undefined)
    assert.equal(usage.room(row).usedMemory, 2 ** 30)
    assert.equal(usage.room(row).portHolder(22), each.name)
  }
})

function amounts(usage: Usage) {
  const room = usage.room(usage.row(node.id) ?? 0)
  return {
    mhz: room.usedMHz,
    cores: room.usedCores,
    memory: room.usedMemory,
    disk: room.usedDisk,
    gpu: room.usedCounter('gpu'),
    dynamicPorts: room.usedDynamicPorts,
    http: room.portHolder(30_001),
    ssh: room.portHolder(22),
  }
}
