import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { systemClock } from '../kit/system-clock.ts'
import { Fault } from '../model/fault.ts'
import type { BuildId, SandboxId } from '../model/ids.ts'
import type { SandboxSpec } from '../model/sandbox.ts'
import { openSandboxes } from './engine.ts'
import type { Sandboxes, SandboxNews } from './sandboxes.ts'
import { FakeMachine, partsOn } from './testing.ts'

const { signal } = new AbortController()
const template = 'tttttttttttttttt'.replaceAll('t', '1') as BuildId

async function world(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-engine-'))
  const machine = new FakeMachine()
  machine.addBuild(template)
  const opened: Sandboxes[] = []
  const agent = async () => {
    const sandboxes = await openSandboxes(partsOn(machine, directory))
    opened.push(sandboxes)
    return sandboxes
  }
  t.after(async () => {
    for (const sandboxes of opened) await sandboxes[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  })
  return { machine, directory, agent }
}

function specOf(number: number, change: Partial<SandboxSpec> = {}): SandboxSpec {
  return { id: id(number), build: template, env: {}, egress: { mode: 'deny' }, ...change }
}

function id(number: number): SandboxId {
  return String(number).padStart(16, '0') as SandboxId
}

function build(number: number): BuildId {
  return String(number).padStart(16, 'b') as BuildId
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; tries < 1000 && !condition(); tries++) await systemClock.sleep(2)
  assert.ok(condition())
}

function phases(sandboxes: Sandboxes): Record<string, string> {
  return Object.fromEntries(sandboxes.list().map(({ id, phase }) => [Number(id), phase]))
}

test('a sandbox is created, told who it is before anything runs, and leaves nothing when it is killed', async (t) => {
  const { machine, agent, directory } = await world(t)
  const sandboxes = await agent()
  const news: SandboxNews[] = []
  sandboxes.subscribe((one) => news.push(one))
  await sandboxes.create(specOf(1, { env: { SECRET: 'x' } }), { signal })
  assert.deepEqual(phases(sandboxes), { 1: 'running' })
  const { env } = await sandboxes.guest(id(1))
  assert.deepEqual(env, { FROM_BUILD: '1', SECRET: 'x' })
  assert.ok(
    [...machine.vms.values()].every(
      (vm) => !vm.ranUnidentified && vm.identities.every(({ env }) => Object.keys(env).length === 0),
    ),
  )
  await sandboxes.kill(id(1))
  assert.deepEqual(phases(sandboxes), { 1: 'killed' })
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
  assert.deepEqual(await readdir(join(directory, 'sandboxes')), [])
  assert.deepEqual(
    news.map((one) => one.kind === 'status' && one.status.phase),
    ['running', 'killed'],
  )
})

test('what is asked twice is done once', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await Promise.all([1, 2, 3].map(() => sandboxes.create(specOf(1), { signal })))
  await sandboxes.pause(id(1), { build: build(1), signal })
  await sandboxes.pause(id(1), { build: build(1), signal })
  await Promise.all([sandboxes.resume(specOf(1), { signal }), sandboxes.resume(specOf(1), { signal })])
  assert.deepEqual(phases(sandboxes), { 1: 'running' })
  await sandboxes.kill(id(1))
  await sandboxes.kill(id(1))
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
})

test('a paused sandbox holds nothing but its build, and goes on as itself', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await sandboxes.create(specOf(1), { signal })
  await sandboxes.pause(id(1), { build: build(1), signal })
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
  assert.equal(machine.references.get(`sandbox/${id(1)}`), build(1))
  const next = await agent()
  assert.deepEqual(phases(next), { 1: 'paused' })
  await next.resume(specOf(1), { signal })
  const running = [...machine.vms.values()].filter((vm) => vm.alive && vm.identities.at(-1)?.hostname === id(1))
  assert.deepEqual(
    running.map((vm) => vm.identities.at(-1)?.fresh),
    [false],
  )
  await next.kill(id(1))
  assert.equal(machine.references.size, 0)
})

test('a device state is gone once a VM was resumed from it, and once it is in a build', async (t) => {
  const { agent, directory } = await world(t)
  const sandboxes = await agent()
  const states = async () =>
    (await readdir(join(directory, 'vms'), { recursive: true })).filter((path) => /devices|restored/.test(path))
  await sandboxes.create(specOf(1), { signal })
  await sandboxes.snapshot(id(1), { build: build(1), signal })
  assert.deepEqual(await states(), [], 'after a snapshot')
  await sandboxes.pause(id(1), { build: build(2), signal })
  await sandboxes.resume(specOf(1), { signal })
  assert.deepEqual(await states(), [], 'after a resume')
  // What clones share is of the template alone.
  assert.deepEqual(await readdir(join(directory, 'devices')), [template])
  await sandboxes.kill(id(1))
  assert.deepEqual(await states(), [], 'after a kill')
})

test('one that was paused elsewhere goes on with the environment, user and directory that come with it', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await sandboxes.create(specOf(1), { signal })
  await sandboxes.pause(id(1), { build: build(1), signal })
  const given = { env: { SECRET: 'x' }, user: 'app', cwd: '/srv' }
  await sandboxes.resume(specOf(2, { ...given, build: build(1) }), { signal })
  assert.deepEqual((await sandboxes.guest(id(2))).env, { FROM_BUILD: '1', SECRET: 'x' })
  const told = [...machine.vms.values()].flatMap((vm) => vm.identities).find(({ hostname }) => hostname === id(2))
  assert.deepEqual([told?.env, told?.user, told?.cwd], [{}, given.user, given.cwd])
})

test('a pause that fails lets the sandbox go on, whichever step it failed at', async (t) => {
  for (const failing of ['freeze', 'quiesce', 'stop', 'cutDisk', 'saveDevices', 'captureMemory', 'store']) {
    const { machine, agent } = await world(t)
    const sandboxes = await agent()
    await sandboxes.create(specOf(1), { signal })
    machine.fail = (step) => (step === failing ? new Fault('exhausted', 'the disk is full') : undefined)
    await assert.rejects(sandboxes.pause(id(1), { build: build(1), signal }), /the disk is full/, failing)
    machine.fail = () => undefined
    assert.deepEqual(phases(sandboxes), { 1: 'running' }, failing)
    const vm = [...machine.vms.values()].find((one) => one.identities.at(-1)?.hostname === id(1))
    assert.deepEqual([vm?.alive, vm?.stopped, vm?.frozen], [true, false, false], failing)
    assert.equal(machine.references.size, 0)
    await sandboxes.pause(id(1), { build: build(2), signal })
    assert.deepEqual(phases(sandboxes), { 1: 'paused' }, failing)
    await sandboxes[Symbol.asyncDispose]()
    assert.deepEqual(machine.held, [], failing)
  }
})

test('forks answer each for itself, and the source goes on', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await sandboxes.create(specOf(1), { signal })
  machine.fail = (step) => (step === 'allow' ? new Fault('unavailable', 'no more today') : undefined)
  const children = [specOf(2), specOf(3, { egress: { mode: 'allow' } }), specOf(4)]
  const results = await sandboxes.fork(id(1), { build: build(1), children, signal })
  machine.fail = () => undefined
  assert.equal(results.filter(({ fault }) => fault === undefined).length, 2)
  assert.deepEqual(
    results.flatMap(({ fault }) => (fault ? [fault.message] : [])),
    ['no more today'],
  )
  assert.equal(Object.values(phases(sandboxes)).filter((phase) => phase === 'running').length, 3)
  const generations = [...machine.vms.values()].flatMap((vm) => vm.identities.map((identity) => identity.generation))
  assert.equal(new Set(generations).size, generations.length)
  assert.equal(machine.references.size, 0)
})

test('a VM that ends by itself takes its sandbox with it, with the reason', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await sandboxes.create(specOf(1), { signal })
  const vm = [...machine.vms.values()].find((one) => one.identities.at(-1)?.hostname === id(1))
  vm?.end('killed by signal 9')
  await until(() => phases(sandboxes)[1] === 'failed')
  assert.match(sandboxes.list()[0]?.reason ?? '', /killed by signal 9/)
  await assert.rejects(sandboxes.guest(id(1)), /is failed.*its VM ended/)
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
})

test('a kill does not wait for what is under way', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  const stuck = Promise.withResolvers<void>()
  machine.fail = (step) => {
    if (step === 'restore') stuck.resolve()
    return undefined
  }
  const creating = sandboxes.create(specOf(1), { signal })
  await stuck.promise
  await Promise.all([assert.rejects(creating, /was killed/), sandboxes.kill(id(1))]).catch(() => {})
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
})

test('the second of a build comes from the pool', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  await sandboxes.create(specOf(1), { signal })
  await until(() => sandboxes.facts().warm > 0)
  const before = machine.vms.size
  const ahead = [...machine.vms.values()].find((vm) => vm.identities.at(-1)?.hostname === 'sandbox')
  await sandboxes.create(specOf(2), { signal })
  assert.equal(ahead?.identities.at(-1)?.hostname, id(2))
  assert.notEqual(ahead?.identities[0]?.machineId, ahead?.identities.at(-1)?.machineId)
  assert.ok(before > 0)
  await sandboxes.kill(id(1))
  await sandboxes.kill(id(2))
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
})

test('ten thousand at once: some start, the others are told at once, and nothing is left', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  const all = await Promise.allSettled(
    Array.from({ length: 10_000 }, (_, n) => sandboxes.create(specOf(n), { signal })),
  )
  const refused = all.flatMap((one) => (one.status === 'rejected' ? [one.reason as Fault] : []))
  const started = all.length - refused.length
  assert.ok(started >= 1000, `${started} started`)
  assert.ok(refused.length > 0)
  assert.ok(refused.every((fault) => fault.code === 'exhausted' && /wait to start/.test(fault.message)))
  assert.equal(sandboxes.facts().running, started)
  await Promise.all(sandboxes.list().map(({ id }) => sandboxes.kill(id)))
  await sandboxes[Symbol.asyncDispose]()
  assert.deepEqual(machine.held, [])
})

test('a node without memory says so', async (t) => {
  const { machine, agent } = await world(t)
  const sandboxes = await agent()
  machine.free = 1000
  await assert.rejects(sandboxes.create(specOf(1), { signal }), /memory left.*kill or pause some/)
  assert.deepEqual(sandboxes.list(), [])
  assert.deepEqual(machine.held, [])
})

for (const diesAfter of [false, true]) {
  test(`an agent may die ${diesAfter ? 'after' : 'before'} any step: the next one finds every sandbox running, paused or gone, and nothing half`, async (t) => {
    for (let dieAt = 1; ; dieAt++) {
      const { machine, directory } = await world(t)
      const first = partsOn(machine, directory)
      machine.dieAt = dieAt
      machine.diesAfter = diesAfter
      const life = (async () => {
        const sandboxes = await openSandboxes(first)
        await sandboxes.create(specOf(1), { signal })
        await sandboxes.snapshot(id(1), { build: build(7), signal })
        await sandboxes.pause(id(1), { build: build(1), signal })
        await sandboxes.resume(specOf(1), { signal })
        await sandboxes.pause(id(1), { build: build(2), signal })
        await sandboxes.resume(specOf(1), { signal })
        await sandboxes.kill(id(1))
        await sandboxes[Symbol.asyncDispose]()
        return 'lived'
      })()
      const how = await Promise.race([life, first.agent.died.promise.then(() => 'died')])
      if (how === 'lived') {
        assert.deepEqual(machine.held, [])
        return
      }
      machine.dieAt = Number.POSITIVE_INFINITY
      const second = await openSandboxes(partsOn(machine, directory))
      const phase = phases(second)[1] ?? 'gone'
      const where = `step ${dieAt}: ${phase}`
      assert.ok(['running', 'paused', 'gone', 'failed'].includes(phase), where)
      const alive = [...machine.vms.values()].filter((vm) => vm.alive)
      assert.equal(alive.length, phase === 'running' ? 1 : 0, where)
      assert.ok(
        alive.every((vm) => !vm.stopped && !vm.frozen && !vm.ranUnidentified),
        where,
      )
      if (phase === 'paused') assert.ok(machine.references.has(`sandbox/${id(1)}`), where)
      if (phase === 'failed') assert.ok(second.list()[0]?.reason, where)
      await second.kill(id(1))
      await second[Symbol.asyncDispose]()
      assert.deepEqual(machine.held, [], where)
    }
  })
}
