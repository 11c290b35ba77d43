import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SteppedClock } from '../../kit/stepped-clock.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId, SandboxId } from '../../model/ids.ts'
import { tableNames } from '../../model/records.ts'
import type { Sandbox } from '../../model/sandbox.ts'
import { leaseMs } from '../../wire/messages.ts'
import { drainNode } from '../actions/steer-node.ts'
import type { Wanted } from './create.ts'
import { type FakeNode, openSandboxWorld, plainWish, type SandboxWorld, sandboxFacts } from './testing.ts'
import { setEgress, setTimeoutOf, updateSandbox } from './update.ts'

const asked = { by: 'test', signal: new AbortController().signal }
const wanted: Wanted = { ...plainWish, timeoutMs: 300_000 }

const stepped = (world: SandboxWorld) => world.clock as SteppedClock
const row = (world: SandboxWorld, id: SandboxId): Sandbox | undefined => world.control.store.view.get('sandboxes', id)
const phase = (world: SandboxWorld, id: SandboxId) => row(world, id)?.phase
const events = (world: SandboxWorld, kind: string) =>
  [...world.control.store.view.all('events')].filter((event) => event.kind === kind).map((event) => event.message)

/** One node with a template, and a sandbox on it where one is wanted. */
async function open(more: Partial<Wanted> = {}) {
  const world = await openSandboxWorld()
  const node = await world.addNode('a')
  await world.addTemplate('base', [node])
  const create = (other: Partial<Wanted> = {}) => world.sandboxes.create({ ...wanted, ...more, ...other }, asked)
  const settle = () => stepped(world).advance(5)
  return { world, node, create, settle, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() }
}

/** Something that waits until it is told to go on. */
function gate() {
  const opened = Promise.withResolvers<void>()
  const reached = Promise.withResolvers<void>()
  return {
    reached: reached.promise,
    open: () => opened.resolve(),
    wait: async () => {
      reached.resolve()
      await opened.promise
    },
  }
}

test('a sandbox that is created runs, with what was asked for, and its environment is shown nowhere', async () => {
  await using at = await open()
  const created = await at.create({ name: 'mine', metadata: { a: 'b' }, env: { SECRET: 'hunter2' } })
  assert.equal(created.phase, 'running')
  assert.equal(created.expiresAt, at.world.clock.now() + 300_000)
  assert.equal(at.node.sandboxes.get(created.id)?.spec.env.SECRET, 'hunter2')
  assert.equal(at.node.sandboxes.get(created.id)?.spec.hostname, 'mine')
  const { view } = at.world.control.store
  const others = tableNames.filter((table) => table !== 'sandboxEnvironments')
  for (const table of others) assert.ok(!JSON.stringify([...view.all(table)]).includes('hunter2'), table)
  await at.world.sandboxes.kill(created.id, asked)
  assert.equal(view.count('sandboxEnvironments'), 0)
})

test('what is not there to be made of is told with what is', async () => {
  await using at = await open()
  await assert.rejects(at.create({ from: 'bse' }), { code: 'not_found', message: /no template "bse"; there are base/ })
  await assert.rejects(at.create({ from: 'base:v2' }), { message: /has no build "v2"; there are latest/ })
})

test('a sandbox is placed now, or told why not', async () => {
  await using world = await openSandboxWorld()
  const attempt = () => world.sandboxes.create(wanted, asked)
  const a = await world.addNode('a', { drivers: {} })
  await world.addTemplate('base', [a], { compat: 'fake-1' })
  await assert.rejects(attempt(), { code: 'unavailable', message: /1 has no driver "sandbox"/ })
  const b = await world.addNode('b')
  await assert.rejects(attempt(), { message: /1 does not have the build/ })
  const sick = { healthy: false, reason: 'there is no QEMU.', remedy: 'install qemu-system-x86', attributes: {} }
  const c = await world.addNode('c', { drivers: { sandbox: sick } })
  await world.addTemplate('base', [c])
  await assert.rejects(attempt(), { message: /unhealthy driver "sandbox" \(there is no QEMU\)/ })
  await world.addTemplate('base', [b], { compat: 'qemu-7' })
  await assert.rejects(attempt(), { message: /another VMM than the build was saved by \(qemu-7\)/ })
  await world.addTemplate('base', [b], { machine: { arch: 'arm64', cpus: 1, memoryMiB: 256 } })
  await assert.rejects(attempt(), { message: /not of architecture arm64/ })
  await world.addTemplate('base', [b], { machine: { arch: 'amd64', cpus: 1, memoryMiB: 2 ** 20 } })
  await assert.rejects(attempt(), {
    code: 'exhausted',
    message: /1 lacks memory \(needs 256 GiB, most free 16 GiB\).*add a node/,
  })
})

test('reservations are counted with those of jobs, and given back by a pause and by an end', async () => {
  await using world = await openSandboxWorld()
  const node = await world.addNode('a', { memory: 130 * 2 ** 20 })
  await world.addTemplate('base', [node])
  const first = await world.sandboxes.create(wanted, asked)
  await world.sandboxes.create(wanted, asked)
  await assert.rejects(world.sandboxes.create(wanted, asked), { code: 'exhausted' })
  await world.sandboxes.pause(first.id, asked)
  const third = await world.sandboxes.create(wanted, asked)
  await assert.rejects(world.sandboxes.resume(first.id, asked), { code: 'exhausted', message: /lacks memory/ })
  await world.sandboxes.kill(third.id, asked)
  assert.equal((await world.sandboxes.resume(first.id, asked)).phase, 'running')
})

test('nothing half-made stays of a sandbox that its node cannot make, and another node is tried', async () => {
  await using world = await openSandboxWorld()
  const a = await world.addNode('a')
  const b = await world.addNode('b')
  await world.addTemplate('base', [a, b])
  for (const node of [a, b])
    node.before = ({ op }) => {
      if (op === 'create') throw new Fault('exhausted', 'no memory is free')
    }
  await assert.rejects(world.sandboxes.create(wanted, asked), { code: 'exhausted', message: /no memory is free/ })
  await stepped(world).advance(5)
  assert.equal(world.control.store.view.count('sandboxes'), 0)
  assert.equal(events(world, 'sandbox.failed').length, 2)
  assert.equal(world.sandboxes.desk.usage.heldBy('x' as never), undefined)
  b.before = () => {}
  const made = await world.sandboxes.create(wanted, asked)
  assert.equal(made.node, b.id)
})

test('a pause and a resume lead back to the same sandbox, and doing either twice is doing it once', async () => {
  await using at = await open()
  const { id, build } = await at.create({ env: { A: '1' } })
  const paused = await at.world.sandboxes.pause(id, asked)
  assert.equal(paused.phase, 'paused')
  assert.equal(paused.expiresAt, null)
  const saved = at.world.control.store.view.get('builds', paused.pausedBuild as BuildId)
  assert.deepEqual([saved?.status, saved?.parent, saved?.addedBytes], ['ready', build, 1000])
  assert.equal((await at.world.sandboxes.pause(id, asked)).changedAt, paused.changedAt)
  const resumes = await Promise.all([1, 2, 3].map(() => at.world.sandboxes.resume(id, asked)))
  assert.deepEqual(new Set(resumes.map((each) => each.phase)), new Set(['running']))
  assert.equal(at.node.requests.filter(({ op }) => op === 'resume').length, 1)
  assert.equal(at.node.sandboxes.get(id)?.spec.env.A, '1')
  assert.equal(row(at.world, id)?.pausedBuild, null)
})

test('a pause that fails leaves the sandbox running, and nothing to be used', async () => {
  await using at = await open()
  const { id } = await at.create()
  at.node.before = ({ op }) => {
    if (op === 'pause') throw new Fault('exhausted', 'the disk is full')
  }
  await assert.rejects(at.world.sandboxes.pause(id, asked), /the disk is full/)
  assert.equal(phase(at.world, id), 'running')
  const builds = () => [...at.world.control.store.view.all('builds')].filter(({ status }) => status === 'ready')
  assert.equal(builds().length, 1)
  assert.match(events(at.world, 'sandbox.pause-failed')[0] ?? '', /runs on: the disk is full/)
})

test('what a failed fork or pause left on its node is forgotten there', async () => {
  await using at = await open({ timeoutMs: null })
  const { id } = await at.create()
  at.node.after = ({ op }) => {
    if (op === 'fork' || op === 'snapshot') throw new Fault('unavailable', 'it broke off')
  }
  await assert.rejects(at.world.sandboxes.fork(id, { count: 1, env: {} }, asked))
  await assert.rejects(at.world.sandboxes.snapshot(id, {}, asked))
  assert.equal(at.node.builds.size, 3)
  await stepped(at.world).advance(120_000)
  assert.equal(at.node.builds.size, 1)
})

test('a resume that fails leaves it paused, and it can be tried again', async () => {
  await using at = await open()
  const { id } = await at.create()
  await at.world.sandboxes.pause(id, asked)
  at.node.before = ({ op }) => {
    if (op === 'resume') throw new Fault('unavailable', 'a chunk is missing')
  }
  await assert.rejects(at.world.sandboxes.resume(id, asked), /a chunk is missing/)
  assert.equal(phase(at.world, id), 'paused')
  assert.match(row(at.world, id)?.reason ?? '', /a chunk is missing/)
  at.node.before = () => {}
  assert.equal((await at.world.sandboxes.resume(id, asked)).phase, 'running')
  assert.equal(row(at.world, id)?.reason, undefined)
})

async function lost(world: SandboxWorld, node: FakeNode): Promise<void> {
  await node.vanish()
  await stepped(world).advance(leaseMs + 2000)
}

/** Two nodes that share a store, and a sandbox that was paused on the first. */
async function openShared() {
  const world = await openSandboxWorld()
  const { sandbox } = sandboxFacts.drivers
  const shared = { drivers: { sandbox: { healthy: true, attributes: { ...sandbox?.attributes, store: 's3://x' } } } }
  const [a, b] = [await world.addNode('a', shared), await world.addNode('b', shared)]
  await world.addTemplate('base', [a])
  const { id } = await world.sandboxes.create({ ...wanted, node: a.id }, asked)
  const { pausedBuild } = await world.sandboxes.pause(id, asked)
  return { world, a, b, id, build: pausedBuild as BuildId, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() }
}

test('one whose node is away or closed goes on at another that shares its store, and its node forgets it', async () => {
  for (const how of ['away', 'drained'] as const) {
    await using at = await openShared()
    const { world, a, b, id, build } = at
    b.builds.add(build)
    if (how === 'away') await lost(world, a)
    else await drainNode(world.control, 'a', { by: 'test', deadlineMs: null })
    const resumed = await world.sandboxes.resume(id, asked)
    assert.deepEqual([resumed.phase, resumed.node, resumed.build], ['running', b.id, build])
    assert.equal(b.sandboxes.get(id)?.phase, 'running')
    if (how === 'away') await a.connect()
    await stepped(world).advance(5)
    assert.ok(!a.sandboxes.has(id), how)
    assert.deepEqual([phase(world, id), row(world, id)?.node], ['running', b.id])
  }
})

test('environment, user and directory given at create are had on whichever node it goes on, and by its forks', async () => {
  await using at = await openShared()
  const { world, a, b } = at
  const given = { user: 'app', cwd: '/srv', env: { KEY: 'secret', MODE: 'a' } }
  const { id } = await world.sandboxes.create({ ...wanted, ...given, node: a.id }, asked)
  const { pausedBuild } = await world.sandboxes.pause(id, asked)
  b.builds.add(pausedBuild as BuildId)
  await lost(world, a)
  await world.restart()
  await world.sandboxes.resume(id, asked)
  const spec = b.sandboxes.get(id)?.spec
  assert.deepEqual([spec?.user, spec?.cwd, spec?.env], [given.user, given.cwd, given.env])
  const [fork] = await world.sandboxes.fork(id, { count: 1, env: { MODE: 'b' } }, asked)
  const child = fork && 'sandbox' in fork ? fork.sandbox.id : id
  const again = await world.sandboxes.pause(child, asked)
  await lost(world, b)
  a.builds.add(again.pausedBuild as BuildId)
  await a.connect()
  await stepped(world).advance(leaseMs)
  await world.sandboxes.resume(child, asked)
  assert.deepEqual(a.sandboxes.get(child)?.spec.env, { KEY: 'secret', MODE: 'b' })
  assert.equal(a.sandboxes.get(child)?.spec.user, 'app')
  for (const each of [id, child]) await world.sandboxes.kill(each, asked)
  assert.equal(world.control.store.view.count('sandboxEnvironments'), 0)
})

test('one that could not go on elsewhere is paused where it was, also after a crash in between', async () => {
  await using at = await openShared()
  const { world, a, b, id, build } = at
  await lost(world, a)
  await assert.rejects(world.sandboxes.resume(id, asked), { code: 'not_found', message: /the build is not here/ })
  assert.deepEqual([phase(world, id), row(world, id)?.node], ['paused', a.id])
  const held = gate()
  b.builds.add(build)
  b.before = ({ op }) => (op === 'resume' ? held.wait() : undefined)
  world.sandboxes.resume(id, asked).catch(() => {})
  await held.reached
  assert.deepEqual([phase(world, id), row(world, id)?.node], ['resuming', b.id])
  await world.restart()
  await stepped(world).advance(5)
  assert.deepEqual([phase(world, id), row(world, id)?.node], ['paused', a.id])
  await lost(world, b)
  await assert.rejects(world.sandboxes.resume(id, asked), {
    code: 'unavailable',
    message: /is paused on node "a", which is not connected now, and no other node can take it: .*; try again/,
  })
})

test('a sandbox that is killed while it is created, paused or resumed is killed', async () => {
  await using at = await open()
  for (const op of ['pause', 'resume'] as const) {
    const { id } = await at.create()
    if (op === 'resume') await at.world.sandboxes.pause(id, asked)
    const held = gate()
    at.node.before = (request) => (request.op === op ? held.wait() : undefined)
    const doing = at.world.sandboxes[op](id, asked)
    doing.catch(() => {})
    await held.reached
    await at.world.sandboxes.kill(id, asked)
    held.open()
    await assert.rejects(doing)
    await at.settle()
    assert.equal(phase(at.world, id), 'killed')
    assert.ok(!at.node.sandboxes.has(id), op)
    at.node.before = () => {}
  }
  const held = gate()
  at.node.before = ({ op }) => (op === 'create' ? held.wait() : undefined)
  const creating = at.create()
  creating.catch(() => {})
  await held.reached
  const [id] = [...at.world.control.store.view.by('activeSandboxes', 'creating')].map((each) => each.id)
  assert.ok(id)
  await at.world.sandboxes.kill(id, asked)
  held.open()
  await assert.rejects(creating, { code: 'conflict' })
  await at.settle()
  assert.ok(!at.node.sandboxes.has(id))
})

test('a fork gives copies that answer, and says which do not', async () => {
  await using at = await open()
  const source = await at.create({ env: { A: '1' }, metadata: { team: 'x' } })
  at.node.forkFault = (child) => (child === 1 ? 'no memory is free' : undefined)
  const forks = await at.world.sandboxes.fork(source.id, { count: 3, env: {} }, asked)
  const made = forks.flatMap((each) => ('sandbox' in each ? [each.sandbox] : []))
  assert.equal(made.length, 2)
  for (const child of made) {
    assert.equal(child.phase, 'running')
    assert.equal(child.parent, source.id)
    assert.deepEqual(child.metadata, { team: 'x' })
    assert.equal(at.node.sandboxes.get(child.id)?.spec.env.A, '1')
  }
  assert.equal([...at.world.control.store.view.by('sandboxesByNode', at.node.id)].length, 3)
  assert.match(events(at.world, 'sandbox.fork-failed')[0] ?? '', /1 of 3 forks .* no memory is free/)
  at.node.forkFault = () => 'no memory is free'
  await assert.rejects(at.world.sandboxes.fork(source.id, { count: 2, env: {} }, asked), { code: 'exhausted' })
  assert.equal([...at.world.control.store.view.by('sandboxesByNode', at.node.id)].length, 3)
  assert.equal(phase(at.world, source.id), 'running')
})

test('forks for which there is no room are refused before anything is made', async () => {
  await using world = await openSandboxWorld()
  const node = await world.addNode('a', { memory: 300 * 2 ** 20 })
  await world.addTemplate('base', [node])
  const source = await world.sandboxes.create(wanted, asked)
  await assert.rejects(world.sandboxes.fork(source.id, { count: 20, env: {} }, asked), {
    code: 'exhausted',
    message: /room for 3 of 20 forks/,
  })
  assert.equal(world.control.store.view.count('sandboxes'), 1)
  assert.ok(!node.requests.some(({ op }) => op === 'fork'))
})

test('a snapshot is a build that sandboxes can be made of, by its tag too', async () => {
  await using at = await open()
  const { id } = await at.create()
  const build = await at.world.sandboxes.snapshot(id, { tag: { template: 'warm', tag: 'v1' } }, asked)
  assert.equal(build.status, 'ready')
  const again = await at.create({ from: 'warm:v1' })
  assert.equal(again.build, build.id)
  assert.equal(phase(at.world, id), 'running')
})

test('when its time is up a sandbox is killed, or paused, and a restart of the control plane forgets none', async () => {
  await using at = await open()
  const short = await at.create({ timeoutMs: 10_000 })
  const kept = await at.create({ timeoutMs: 10_000, onTimeout: 'pause' })
  const longer = await at.create({ timeoutMs: 60_000 })
  const forever = await at.create({ timeoutMs: null })
  await stepped(at.world).advance(9000)
  assert.equal(phase(at.world, short.id), 'running')
  await at.world.restart()
  await stepped(at.world).advance(2000)
  assert.equal(phase(at.world, short.id), 'killed')
  assert.match(row(at.world, short.id)?.reason ?? '', /its time was up/)
  assert.equal(phase(at.world, kept.id), 'paused')
  assert.ok(!at.node.sandboxes.has(short.id))
  await at.world.sandboxes.resume(kept.id, asked)
  await setTimeoutOf(at.world.sandboxes.desk, longer.id, { timeoutMs: 200_000, by: 'test' })
  await stepped(at.world).advance(60_000)
  assert.equal(phase(at.world, kept.id), 'paused')
  assert.equal(phase(at.world, longer.id), 'running')
  await stepped(at.world).advance(200_000)
  assert.equal(phase(at.world, longer.id), 'killed')
  assert.equal(phase(at.world, forever.id), 'running')
})

test('one whose time is up and that cannot be paused is not thrown away', async () => {
  await using at = await open()
  const { id } = await at.create({ timeoutMs: 10_000, onTimeout: 'pause' })
  at.node.before = ({ op }) => {
    if (op === 'pause') throw new Fault('exhausted', 'the disk is full')
  }
  await stepped(at.world).advance(11_000)
  assert.equal(phase(at.world, id), 'running')
  at.node.before = () => {}
  await stepped(at.world).advance(40_000)
  assert.equal(phase(at.world, id), 'paused')
})

test('a machine that ends is seen, with its reason', async () => {
  await using at = await open()
  const { id } = await at.create()
  await at.node.crash(id, 'the VMM was killed')
  await at.settle()
  assert.equal(phase(at.world, id), 'failed')
  assert.match(events(at.world, 'sandbox.failed')[0] ?? '', /the VMM was killed/)
  await assert.rejects(at.world.sandboxes.pause(id, asked), { code: 'conflict', message: /failed: the VMM was killed/ })
})

test('what is lost with its node has failed; what was paused there waits', async () => {
  await using at = await open()
  const running = await at.create()
  const paused = await at.create()
  await at.world.sandboxes.pause(paused.id, asked)
  await at.node.vanish()
  await stepped(at.world).advance(leaseMs + 2000)
  assert.equal(phase(at.world, running.id), 'failed')
  assert.match(row(at.world, running.id)?.reason ?? '', /node "a" was lost/)
  assert.equal(phase(at.world, paused.id), 'paused')
  await assert.rejects(at.world.sandboxes.resume(paused.id, asked), { code: 'unavailable', message: /not connected/ })
  await at.node.connect()
  await at.settle()
  assert.ok(!at.node.sandboxes.has(running.id), 'what nobody wants any more is ended')
  assert.equal((await at.world.sandboxes.resume(paused.id, asked)).phase, 'running')
})

test('a short loss of the connection changes nothing', async () => {
  await using at = await open()
  const { id } = await at.create()
  await at.node.lostLink()
  await stepped(at.world).advance(5000)
  await at.node.connect()
  await at.settle()
  assert.equal(phase(at.world, id), 'running')
})

test('what a crash of the control plane left half done becomes what the nodes say', async () => {
  await using at = await open()
  const gates = new Map<string, ReturnType<typeof gate>>()
  const ids: Record<string, SandboxId> = {}
  for (const op of ['pause', 'resume'] as const) {
    for (const when of ['before', 'after'] as const) {
      const { id } = await at.create()
      if (op === 'resume') await at.world.sandboxes.pause(id, asked)
      ids[`${op} ${when}`] = id
      gates.set(`${id} ${when}`, gate())
    }
  }
  const hold = (when: 'before' | 'after') => (request: { op: string; id?: SandboxId; spec?: { id: SandboxId } }) =>
    gates.get(`${request.id ?? request.spec?.id} ${when}`)?.wait()
  at.node.before = hold('before') as never
  at.node.after = hold('after') as never
  for (const [name, id] of Object.entries(ids)) {
    const verb = name.startsWith('pause') ? 'pause' : 'resume'
    at.world.sandboxes[verb](id, asked).catch(() => {})
    await gates.get(`${id} ${name.split(' ')[1]}`)?.reached
  }
  const gone = await at.create()
  at.node.sandboxes.delete(gone.id)
  at.node.sandboxes.set('zzzzzzzzzzzzzzzz' as SandboxId, {
    spec: { id: 'zzzzzzzzzzzzzzzz' as SandboxId, build: gone.build, env: {}, egress: { mode: 'deny' } },
    phase: 'running',
    build: gone.build,
    files: new Map(),
  })
  await at.world.restart()
  await at.settle()
  assert.equal(phase(at.world, ids['pause before'] as SandboxId), 'running')
  assert.equal(phase(at.world, ids['pause after'] as SandboxId), 'paused')
  assert.equal(phase(at.world, ids['resume before'] as SandboxId), 'paused')
  assert.equal(phase(at.world, ids['resume after'] as SandboxId), 'running')
  assert.equal(phase(at.world, gone.id), 'failed')
  assert.match(row(at.world, gone.id)?.reason ?? '', /does not have it any more/)
  assert.ok(!at.node.sandboxes.has('zzzzzzzzzzzzzzzz' as SandboxId))
})

test('a policy takes effect, is kept, and is as before when its node refuses it', async () => {
  await using at = await open()
  const { desk } = at.world.sandboxes
  const { id } = await at.create()
  const listed = { mode: 'list', cidrs: ['10.0.0.0/8'], domains: [] } as const
  const list = { ...listed, cidrs: [...listed.cidrs], domains: [] }
  assert.deepEqual((await setEgress(desk, id, { egress: list, by: 'test' })).egress, list)
  assert.deepEqual(at.node.sandboxes.get(id)?.spec.egress, list)
  at.node.before = ({ op }) => {
    if (op === 'egress') throw new Fault('unavailable', 'nft is busy')
  }
  await assert.rejects(setEgress(desk, id, { egress: { mode: 'allow' }, by: 'test' }), /nft is busy/)
  assert.deepEqual(row(at.world, id)?.egress, list)
  const before = at.node.requests.length
  at.node.before = () => {}
  await at.world.sandboxes.pause(id, asked)
  await setEgress(desk, id, { egress: { mode: 'allow' }, by: 'test' })
  assert.equal(at.node.requests.slice(before).filter(({ op }) => op === 'egress').length, 0)
  await at.world.sandboxes.resume(id, asked)
  assert.deepEqual(at.node.sandboxes.get(id)?.spec.egress, { mode: 'allow' })
})

test('what is denied is an event of its sandbox', async () => {
  await using at = await open()
  const { id } = await at.create()
  await at.node.report({
    ids: [],
    denials: [{ id, at: 5, destination: '1.1.1.1:53/udp', reason: 'no rule allows it' }],
  })
  await at.settle()
  assert.deepEqual(events(at.world, 'sandbox.egress-denied'), ['1.1.1.1:53/udp was denied: no rule allows it'])
})

test('metadata is merged, and null removes', async () => {
  await using at = await open()
  const { id } = await at.create({ metadata: { a: '1', b: '2' } })
  const changed = await updateSandbox(at.world.sandboxes.desk, id, { metadata: { a: null, c: '3' }, by: 'test' })
  assert.deepEqual(changed.metadata, { b: '2', c: '3' })
})

test('builds that only a pause or a fork needed go when nobody needs them any more', async () => {
  await using at = await open()
  const { id } = await at.create()
  await at.world.sandboxes.pause(id, asked)
  await at.world.sandboxes.resume(id, asked)
  await at.world.sandboxes.pause(id, asked)
  const [child] = await Promise.all([at.create()])
  await at.world.sandboxes.fork(child.id, { count: 1, env: {} }, asked)
  await stepped(at.world).advance(60_000)
  const reasons = () => [...at.world.control.store.view.all('builds')].map((build) => build.reason).sort()
  assert.deepEqual(reasons(), ['fork', 'pause', 'template'])
  for (const { id: each } of at.world.control.store.view.all('sandboxes')) await at.world.sandboxes.kill(each, asked)
  await stepped(at.world).advance(60_000)
  assert.deepEqual(reasons(), ['template'])
  assert.equal(at.node.builds.size, 1)
})

test('a thousand at once are made, so many at a time, and none twice', async () => {
  await using world = await openSandboxWorld({ debug: false })
  const node = await world.addNode('a', { memory: 128 * 2 ** 30 })
  await world.addTemplate('base', [node])
  let under = 0
  let most = 0
  node.before = async ({ op }) => {
    if (op !== 'create') return
    under += 1
    most = Math.max(most, under)
    await new Promise((resolve) => setImmediate(resolve))
    under -= 1
  }
  const made = await Promise.all(Array.from({ length: 1000 }, () => world.sandboxes.create(wanted, asked)))
  assert.equal(new Set(made.map(({ id }) => id)).size, 1000)
  assert.equal(node.sandboxes.size, 1000)
  assert.ok(most <= 32, `${most} at the same time`)
})

test('ten thousand at once: as many as fit are made, the others are told to come back, nothing is left over', async () => {
  await using world = await openSandboxWorld({ debug: false })
  const node = await world.addNode('a', { memory: 300 * 64 * 2 ** 20 })
  await world.addTemplate('base', [node])
  const outcomes = await Promise.allSettled(Array.from({ length: 10_000 }, () => world.sandboxes.create(wanted, asked)))
  const made = outcomes.filter(({ status }) => status === 'fulfilled')
  const codes = new Set(outcomes.flatMap((each) => (each.status === 'rejected' ? [each.reason.code] : [])))
  assert.equal(made.length, 300)
  assert.deepEqual(codes, new Set(['exhausted']))
  assert.equal(world.control.store.view.count('sandboxes'), 300)
  assert.equal(world.sandboxes.desk.busy.size, 0)
  assert.equal(world.sandboxes.desk.starts.load(node.id), 0)
})

test('one who asks for a thousand does not keep another from the first', async () => {
  await using world = await openSandboxWorld({ debug: false })
  const node = await world.addNode('a', {
    drivers: { sandbox: { healthy: true, attributes: { ...sandboxFacts.drivers.sandbox?.attributes, starts: '2' } } },
  })
  await world.addTemplate('base', [node])
  const order: string[] = []
  const start = (by: string) => world.sandboxes.create(wanted, { ...asked, by }).then(() => order.push(by))
  const all = [...Array.from({ length: 200 }, () => start('greedy')), start('modest')]
  await Promise.all(all)
  assert.ok(order.indexOf('modest') < 20, `modest came ${order.indexOf('modest')}th`)
})

test('somebody who has gone while waiting leaves nothing behind', async () => {
  await using at = await open()
  const held = gate()
  at.node.before = ({ op }) => (op === 'create' ? held.wait() : undefined)
  const gone = new AbortController()
  const creating = at.world.sandboxes.create(wanted, { by: 'test', signal: gone.signal })
  creating.catch(() => {})
  await held.reached
  gone.abort(new Error('the client has gone'))
  await assert.rejects(creating, /the client has gone/)
  held.open()
  await stepped(at.world).advance(20_000)
  assert.equal(at.world.control.store.view.count('sandboxes'), 0)
  assert.equal(at.node.sandboxes.size, 0)
})
