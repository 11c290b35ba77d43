import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import { Fault } from '../../model/fault.ts'
import { TaskSpec } from '../../model/job.ts'
import type { TaskPlan } from '../driver.ts'
import { FakeDriver } from './fake-driver.ts'
import { FakeMachine } from './fake-machine.ts'

const { signal } = new AbortController()

function rig() {
  const clock = new SteppedClock()
  const machine = new FakeMachine({ clock })
  return { clock, machine, driver: new FakeDriver({ machine, clock }) }
}

function plan(config: Record<string, unknown> = {}, { id = 'a-main', attempt = 1 } = {}): TaskPlan {
  return {
    id,
    job: 'job',
    allocation: 'a',
    task: 'main',
    attempt,
    spec: TaskSpec.parse({ driver: 'fake', config }),
    env: { NAME: 'value' },
    directory: '/nowhere',
    stateDirectory: '/nowhere',
    limits: { memory: 1000, cores: 0.5, pids: 0 },
    ports: {},
    mounts: [],
    output: { stdout: '/nowhere/out', stderr: '/nowhere/err' },
  }
}

test('a task takes the time that its config says, on the given clock', async () => {
  const { clock, driver, machine } = rig()
  const starting = driver.start(plan({ startMs: 500, runMs: 60_000, exitCode: 3 }), { signal })
  await clock.advance(499)
  assert.equal(machine.running, 0)
  await clock.advance(1)
  const handle = await starting
  assert.equal(machine.running, 1)
  await clock.advance(30_000)
  assert.deepEqual(await handle.stats(), { memory: 500, cpuMs: 15_000, pids: 1 })
  await clock.advance(30_000)
  assert.deepEqual(await handle.exited, { code: 3 })
  assert.equal(handle.startedAt, clock.now() - 60_000)
})

test('preparing takes its time, tells of it, and fails with the sentence given', async () => {
  const { clock, driver } = rig()
  const told: string[] = []
  const config = { prepareMs: 100, failPrepare: 'no such image' }
  const preparing = driver.prepare(plan(config), { signal, progress: (message) => told.push(message) })
  const failed = assert.rejects(preparing, (error) => error instanceof Fault && error.message === 'no such image')
  await clock.advance(100)
  await failed
  assert.deepEqual(told, ['preparing for 100 ms'])
})

test('a misspelt setting is refused by name', async () => {
  const { driver } = rig()
  await assert.rejects(driver.start(plan({ runMS: 1 }), { signal }), /runMS/)
})

test('exit codes can differ by attempt', async () => {
  const { clock, driver } = rig()
  const codes: number[] = []
  for (const attempt of [1, 2, 3, 4]) {
    const handle = await driver.start(plan({ runMs: 1, exitCode: [9, 8, 0] }, { attempt }), { signal })
    await clock.advance(1)
    codes.push((await handle.exited).code)
  }
  assert.deepEqual(codes, [9, 8, 0, 0])
})

test('a task that ignores signals lives to the end of its grace, not longer', async () => {
  const { clock, driver, machine } = rig()
  const handle = await driver.start(plan({ ignoreSignals: true }), { signal })
  const stopping = handle.stop({ signal: 'SIGTERM', graceMs: 5000 })
  await clock.advance(4999)
  assert.equal(machine.running, 1)
  await clock.advance(1)
  await stopping
  assert.deepEqual(await handle.exited, { code: 137, signal: 'SIGKILL' })
})

test('a task may take a while to end after a signal', async () => {
  const { clock, driver } = rig()
  const handle = await driver.start(plan({ stopMs: 300 }), { signal })
  const stopping = handle.stop({ signal: 'SIGINT', graceMs: 5000 })
  await clock.advance(300)
  await stopping
  assert.deepEqual(await handle.exited, { code: 130, signal: 'SIGINT' })
  assert.equal(clock.sleepers, 0)
})

test('a driver made anew finds the tasks of its machine, and after a reboot their unknown ends', async () => {
  const { clock, driver, machine } = rig()
  await driver.start(plan(), { signal })
  const next = new FakeDriver({ machine, clock })
  const found = await next.adopt(plan())
  assert.ok(found)
  machine.reboot()
  assert.match((await found.exited).unknown ?? '', /started anew/)
})

test('a start that nobody waits for any more does not come to run after it was given up', async () => {
  const { clock, driver, machine } = rig()
  const abandoned = assert.rejects(driver.start(plan({ startMs: 1000 }), { signal }))
  await clock.advance(1)
  assert.equal(await new FakeDriver({ machine, clock }).adopt(plan()), undefined)
  await clock.advance(5000)
  await abandoned
  assert.equal(machine.running, 0)
  assert.deepEqual(machine.tasks, [])
})

test('the programs of a fake task answer as real ones would', async () => {
  const { clock, driver } = rig()
  const handle = await driver.start(plan(), { signal })
  const run = async (command: string[], input = '') => {
    const execution = await handle.guest.exec({ command, env: { OWN: 'own' } }, { signal })
    execution.stdin.end(input)
    await clock.advance(2000)
    return [(await execution.exited).code, await text(execution.stdout)]
  }
  assert.deepEqual(await run(['echo', 'a', 'b']), [0, 'a b\n'])
  assert.deepEqual(await run(['cat'], 'text'), [0, 'text'])
  assert.deepEqual(await run(['exit', '7']), [7, ''])
  assert.deepEqual(await run(['env']), [0, 'NAME=value\nOWN=own\n'])
  assert.deepEqual(await run(['sleep', '1.5']), [0, ''])
  await assert.rejects(run(['sh']), /"sh" was not found/)
})

test('a command in a fake task ends when it is killed, and with its task', async () => {
  const { clock, driver } = rig()
  const handle = await driver.start(plan(), { signal })
  const killed = await handle.guest.exec({ command: ['sleep', '100'], env: {} }, { signal })
  killed.kill('SIGTERM')
  assert.deepEqual(await killed.exited, { code: 143 })
  const other = await handle.guest.exec({ command: ['cat'], env: {} }, { signal })
  await handle.stop({ signal: 'SIGTERM', graceMs: 0 })
  assert.deepEqual(await other.exited, { code: 137 })
  await clock.settle()
})

test('ten thousand tasks run, end and are removed without a trace', async () => {
  const { clock, driver, machine } = rig()
  const plans = Array.from({ length: 10_000 }, (_, index) => plan({ runMs: 1000 }, { id: `a${index}-main` }))
  const handles = await Promise.all(plans.map((one) => driver.start(one, { signal })))
  assert.equal(machine.running, 10_000)
  assert.equal(new Set(handles.map(({ pid }) => pid)).size, 10_000)
  await clock.advance(1000)
  assert.equal(machine.running, 0)
  await Promise.all(plans.map((one) => driver.remove(one)))
  assert.deepEqual(machine.tasks, [])
})
