import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SteppedClock } from '../../kit/stepped-clock.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import { leaseMs } from '../../wire/messages.ts'
import { forgetNode } from '../actions/steer-node.ts'
import { type FakeNode, openSandboxWorld, plainWish, type SandboxWorld, sandboxFacts } from './testing.ts'

const asked = { by: 'test', signal: new AbortController().signal }

/** Two nodes with these stores, and a template on the first. */
async function open(...stores: string[]) {
  const world = await openSandboxWorld()
  const nodes: FakeNode[] = []
  for (const [at, store] of stores.entries()) {
    const attributes = { ...sandboxFacts.drivers.sandbox?.attributes, ...(store === '' ? {} : { store }) }
    nodes.push(await world.addNode('abc'[at] ?? '', { drivers: { sandbox: { healthy: true, attributes } } }))
  }
  const [a, b] = nodes as [FakeNode, FakeNode]
  await world.addTemplate('base', [a])
  const create = () => world.sandboxes.create({ ...plainWish, node: a.id }, asked)
  const pause = async () => {
    const { id } = await create()
    const { pausedBuild } = await world.sandboxes.pause(id, asked)
    return { id, build: pausedBuild as BuildId }
  }
  const row = (id: SandboxId) => world.control.store.view.get('sandboxes', id)
  const remove = (node: FakeNode) => forgetNode(world.sandboxes.desk, node.name, asked)
  return { world, a, b, create, pause, row, remove, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() }
}

async function lost(world: SandboxWorld, node: FakeNode): Promise<void> {
  await node.vanish()
  await (world.clock as SteppedClock).advance(leaseMs + 2000)
}

test('what is paused in a store that others share outlives its node, and goes on at another', async () => {
  await using at = await open('s3://x', 's3://x')
  const { world, a, b, row } = at
  const { id, build } = await at.pause()
  const running = await at.create()
  b.builds.add(build)
  await assert.rejects(at.remove(a), { code: 'conflict', message: /is connected; stop its agent first/ })
  await lost(world, a)
  await at.remove(a)
  assert.equal(row(running.id)?.phase, 'failed')
  assert.deepEqual([row(id)?.phase, row(id)?.node], ['paused', b.id])
  assert.match(row(id)?.reason ?? '', /node "a" was removed/)
  assert.deepEqual(world.control.store.view.get('builds', build)?.nodes, [b.id])
  // Its new node says in each session what it has, and it is not of that.
  await b.lostLink()
  await b.connect()
  await (world.clock as SteppedClock).advance(5)
  assert.equal(row(id)?.phase, 'paused')
  const resumed = await world.sandboxes.resume(id, asked)
  assert.deepEqual([resumed.phase, resumed.node], ['running', b.id])
})

test('what lay only on its node has failed, and says so', async () => {
  for (const stores of [
    ['', ''],
    ['s3://x', 's3://x'],
  ]) {
    await using at = await open(...stores)
    const { id } = await at.pause()
    await lost(at.world, at.a)
    await at.remove(at.a)
    assert.equal(at.row(id)?.phase, 'failed')
    assert.equal(at.row(id)?.reason, `node "a" was removed, and what sandbox ${id} was paused in lay only there`)
  }
})

test('where nobody can say whether the store has it, it stays paused', async () => {
  for (const how of ['another store', 'away', 'unwell'] as const) {
    await using at = await open('s3://x', how === 'another store' ? 's3://y' : 's3://x')
    const { id, build } = await at.pause()
    if (how === 'away') await lost(at.world, at.b)
    at.b.before = ({ op }) => {
      if (op === 'adoptBuild') throw new Fault('unavailable', 'the store cannot be reached')
    }
    await lost(at.world, at.a)
    await at.remove(at.a)
    assert.equal(at.row(id)?.phase, 'paused', how)
    await assert.rejects(at.world.sandboxes.resume(id, asked), {
      message: /its node was removed|the build is not here/,
    })
    assert.equal(at.row(id)?.phase, 'paused', how)
    if (how !== 'another store') continue
    const attributes = { ...sandboxFacts.drivers.sandbox?.attributes, store: 's3://x' }
    const c = await at.world.addNode('c', { drivers: { sandbox: { healthy: true, attributes } } })
    c.builds.add(build)
    assert.equal((await at.world.sandboxes.resume(id, asked)).node, c.id)
  }
})

test('one that was being paused is paused if it turns out to be in the store, and else has failed', async () => {
  await using at = await open('s3://x', 's3://x')
  const { world, a, b, row } = at
  const ids = [(await at.create()).id, (await at.create()).id]
  a.before = ({ op }) => (op === 'pause' ? new Promise<void>(() => {}) : undefined)
  for (const id of ids) world.sandboxes.pause(id, asked).catch(() => {})
  await (world.clock as SteppedClock).advance(5)
  // The control plane does not hear how it ended.
  a.wanted = false
  await world.restart()
  await (world.clock as SteppedClock).advance(leaseMs + 2000)
  const [arrived, other] = ids as [SandboxId, SandboxId]
  b.builds.add(row(arrived)?.pausedBuild as BuildId)
  await at.remove(a)
  assert.deepEqual([row(arrived)?.phase, row(arrived)?.node], ['paused', b.id])
  assert.equal(row(other)?.reason, `node "a" was removed while sandbox ${other} was being paused there`)
  assert.equal((await world.sandboxes.resume(arrived, asked)).node, b.id)
})

test('one that was to go on at a node that is lost is paused again where it lies', async () => {
  await using at = await open('s3://x', 's3://x')
  const { world, a, b, row } = at
  const { id, build } = await at.pause()
  b.builds.add(build)
  await lost(world, a)
  b.before = ({ op }) => (op === 'resume' ? new Promise<void>(() => {}) : undefined)
  world.sandboxes.resume(id, asked).catch(() => {})
  await (world.clock as SteppedClock).advance(5)
  b.wanted = false
  await world.restart()
  assert.deepEqual([row(id)?.phase, row(id)?.node], ['resuming', b.id])
  await (world.clock as SteppedClock).advance(leaseMs + 2000)
  assert.deepEqual([row(id)?.phase, row(id)?.node], ['paused', a.id])
})

test('a node that lost its disk does not take what is paused in the store with it', async () => {
  await using at = await open('s3://x', 's3://x')
  const [kept, gone] = [await at.pause(), await at.create()]
  await at.a.lostLink()
  at.a.sandboxes.clear()
  await at.a.connect()
  await (at.world.clock as SteppedClock).advance(5)
  assert.equal(at.row(kept.id)?.phase, 'paused')
  assert.equal(at.row(gone.id)?.phase, 'failed')
  assert.equal((await at.world.sandboxes.resume(kept.id, asked)).node, at.a.id)
})
