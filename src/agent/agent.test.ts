import assert from 'node:assert/strict'
import { afterEach, describe, test } from 'node:test'
import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { SteppedClock } from '../kit/stepped-clock.ts'
import { Fault } from '../model/fault.ts'
import type { NodeId } from '../model/ids.ts'
import { type Agent, startAgent } from './agent.ts'
import { MemoryLedger } from './ledger/memory.ts'
import type { Ledger } from './ledger.ts'
import type { Probe } from './probe.ts'
import { TestMachine } from './test-driver.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts, untilPhase } from './testing.ts'
import { memoryWorkspace } from './workspace/memory.ts'
import type { Workspace } from './workspace.ts'

class World {
  readonly clock = new SteppedClock()
  readonly machine = new TestMachine()
  readonly control = new TestControl()
  readonly memory = new MemoryLedger()
  probe: Probe = { http: async () => {}, tcp: async () => {} }
  facts = testFacts
  workspace: Workspace = memoryWorkspace
  lost: string | undefined
  agent: Agent | undefined
  #crashed = { yes: false }

  async start(): Promise<Agent> {
    const crashed = { yes: false }
    this.#crashed = crashed
    const { memory } = this
    const ledger: Ledger = {
      load: () => ({ ...memory.load(), ...(this.lost === undefined ? {} : { lost: this.lost }) }),
      save: (record) => (crashed.yes ? new Promise(() => {}) : memory.save(record)),
      forget: (id) => (crashed.yes ? new Promise(() => {}) : memory.forget(id)),
      saveVersion: (version) => (crashed.yes ? new Promise(() => {}) : memory.saveVersion(version)),
      close: async () => {},
    }
    this.agent = await startAgent({
      clock: this.clock,
      random: seededRandom('agent'),
      log: silentLog,
      ledger,
      workspace: this.workspace,
      drivers: [this.machine.driver(this.clock, { crashed: () => crashed.yes })],
      probe: { http: (...ask) => this.probe.http(...ask), tcp: (...ask) => this.probe.tcp(...ask) },
      node: { id: newId() as string as NodeId, name: 'node-1', labels: { rack: 'a' } },
      facts: async () => this.facts,
      dial: (options) => (crashed.yes ? new Promise(() => {}) : this.control.dial(options)),
    })
    return this.agent
  }

  /** As kill -9: nothing of the agent happens from here on. */
  crash(): void {
    this.#crashed.yes = true
    this.control.cut()
  }
}

let world = new World()
afterEach(async () => {
  await world.agent?.close().catch(() => {})
  assert.deepEqual(world.machine.broken, [])
  world = new World()
})

const forever = { driver: 'fake' } as const
const batch = (config: Record<string, unknown>) => jobOf({ type: 'batch', tasks: { main: { driver: 'fake', config } } })

describe('a job', () => {
  test('a batch job whose program ends well is complete', async () => {
    const { clock, control } = world
    await world.start()
    await clock.settle()
    const job = batch({ ms: 1000, code: 0 })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    assert.equal(control.statuses.get(one.id)?.healthy, true)
    await untilPhase(clock, control, one.id, 'complete')
    assert.equal(control.statuses.get(one.id)?.tasks['main']?.exitCode, 0)
    assert.equal(control.statuses.get(one.id)?.tasks['main']?.restarts, 0)
  })

  test('a task that fails again and again is restarted as its policy allows, then fails the allocation', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      restart: { attempts: 2, delay: '1s' },
      tasks: { main: { driver: 'fake', config: { ms: 100, code: 1 } } },
    })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'failed')
    assert.equal(machine.starts.length, 3)
    const status = control.statuses.get(one.id)
    assert.equal(status?.tasks['main']?.restarts, 2)
    assert.equal(status?.tasks['main']?.exitCode, 1)
    assert.match(status?.message ?? '', /task "main" exited with code 1; it used up its 2 restarts within 30m/)
    assert.equal(control.kinds().filter((kind) => kind === 'task.failed').length, 1)
    assert.ok(!control.kinds().includes('allocation.failed'), 'the control plane tells that, once it has taken it in')
    assert.equal(control.kinds().filter((kind) => kind === 'task.restarting').length, 2)
  })

  test('in mode delay it waits until the interval is over and goes on', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      restart: { attempts: 1, delay: '1s', interval: '10m', mode: 'delay' },
      tasks: { main: { driver: 'fake', config: { ms: 100, code: 1 } } },
    })
    const one = assignmentOf(job)
    control.put(job, one)
    await clock.until(() => machine.starts.length === 2)
    await clock.advance(60_000)
    assert.equal(machine.starts.length, 2)
    assert.equal(control.statuses.get(one.id)?.tasks['main']?.phase, 'waiting')
    await clock.advance(600_000)
    assert.equal(machine.starts.length, 4)
  })

  test('a service whose program ends, even well, is restarted', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: { driver: 'fake', config: { ms: 5000, code: 0 } } } })
    control.put(job, assignmentOf(job))
    await clock.until(() => machine.starts.length === 2)
  })

  test('prestart tasks run to their end in order, then main and sidecar, and poststop after all', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      type: 'batch',
      tasks: {
        first: { role: 'prestart', driver: 'fake', config: { ms: 1000 } },
        second: { role: 'prestart', driver: 'fake', config: { ms: 1000 } },
        main: { driver: 'fake', config: { ms: 3000 } },
        logs: { role: 'sidecar', ...forever },
        metrics: { role: 'sidecar', ...forever },
        after: { role: 'poststop', driver: 'fake', config: { ms: 500 } },
      },
    })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'complete')
    const order = machine.starts.map((start) => start.replace(`${one.id}-`, '').replace(/\/1$/, ''))
    assert.deepEqual(order, ['first', 'second', 'main', 'logs', 'metrics', 'after'])
    assert.deepEqual(machine.stops, ['metrics', 'logs'])
    assert.deepEqual(machine.alive(), [])
  })

  test('a prestart task that fails for good fails the allocation, and main never starts', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      restart: { attempts: 1 },
      tasks: { setup: { role: 'prestart', driver: 'fake', config: { ms: 10, code: 3 } }, main: forever },
    })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'failed')
    assert.deepEqual(
      machine.starts.map((start) => start.replace(`${one.id}-`, '')),
      ['setup/1', 'setup/2'],
    )
  })

  test('asked to stop, main ends first, then the sidecar, then poststop runs, and it is stopped', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      tasks: {
        main: forever,
        side: { role: 'sidecar', ...forever },
        after: { role: 'poststop', driver: 'fake', config: { ms: 10 } },
      },
    })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    control.change(one.id, { desired: 'stop' })
    await untilPhase(clock, control, one.id, 'stopped')
    assert.deepEqual(machine.stops, ['main', 'side'])
    assert.equal(machine.starts.at(-1), `${one.id}-after/1`)
  })

  test('a newer generation restarts main in place and counts as no failure', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ restart: { attempts: 0 }, tasks: { main: forever, side: { role: 'sidecar', ...forever } } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    control.change(one.id, { generation: 1 })
    await clock.until(() => machine.starts.includes(`${one.id}-main/2`))
    await clock.until(() => control.statuses.get(one.id)?.tasks['main']?.restarts === 1)
    assert.equal(control.phase(one.id), 'running')
    assert.deepEqual(machine.stops, ['main'])
    await clock.advance(60_000)
    assert.equal(machine.starts.length, 3)
  })

  test('an assignment that is to stop and never ran is said to be stopped', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job, { desired: 'stop' })
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'stopped')
    assert.deepEqual(machine.starts, [])
  })

  test('a failing preparation goes through the restart policy with a clear event; what cannot help is not tried', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    let tries = 0
    machine.beforePrepare = () => {
      tries += 1
      throw new Fault('not_found', 'image "nope:1" is not in the registry')
    }
    const job = jobOf({ restart: { attempts: 2 }, tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'failed')
    assert.equal(tries, 3)
    assert.match(control.statuses.get(one.id)?.message ?? '', /image "nope:1" is not in the registry/)
    assert.ok(control.kinds().includes('task.prepare-failed'))
    const wrong = jobOf({
      name: 'wrong',
      tasks: { main: { driver: 'fake', args: ['${port.htp}'] } },
      ports: { http: 'dynamic' },
    })
    const two = assignmentOf(wrong, { ports: { http: 20_001 } })
    machine.beforePrepare = () => {}
    control.put(wrong, two)
    await untilPhase(clock, control, two.id, 'failed')
    assert.match(
      control.statuses.get(two.id)?.message ?? '',
      /"\$\{port.htp\}" is not known here; did you mean "\$\{port.http\}"\?/,
    )
    assert.equal(machine.starts.length, 0)
  })

  test('the environment and the arguments tell a task where and what it is', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({
      ports: { http: 'dynamic' },
      tasks: {
        main: {
          driver: 'fake',
          args: ['--listen=${address}:${port.http}', '${env.GREETING}', '$${literal}'],
          env: { GREETING: 'hello ${node.label.rack} ${env.OTHER}', OTHER: '${alloc.slot}' },
        },
      },
    })
    const one = assignmentOf(job, { ports: { http: 20_123 }, slot: 7 })
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    const plan = machine.running.get(`${one.id}-main`)?.plan
    assert.deepEqual(plan?.spec.args, ['--listen=127.0.0.1:20123', 'hello a 7', '${literal}'])
    assert.equal(plan?.env['TUTTI_PORT_HTTP'], '20123')
    assert.equal(plan?.env['TUTTI_TASK_ID'], `${one.id}-main`)
    assert.equal(plan?.env['GREETING'], 'hello a 7')
    assert.equal(plan?.spec.env['GREETING'], 'hello a 7')
  })
})

describe('checks', () => {
  const job = jobOf({
    ports: { http: 'dynamic' },
    restart: { attempts: 1 },
    tasks: {
      main: { driver: 'fake', checks: [{ type: 'http', port: 'http', interval: '5s', failures: 3, grace: '10s' }] },
    },
  })

  test('a copy is healthy only once its checks pass', async () => {
    const { clock, control } = world
    let up = false
    world.probe = {
      ...world.probe,
      http: async () => {
        if (!up) throw new Error('connection refused')
      },
    }
    await world.start()
    await clock.settle()
    const one = assignmentOf(job, { ports: { http: 20_000 } })
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    assert.equal(control.statuses.get(one.id)?.healthy, false)
    up = true
    await clock.until(() => control.statuses.get(one.id)?.healthy === true)
    assert.ok(control.kinds().includes('task.healthy'))
  })

  test('failures in the grace do not count; three in a row after it restart the task under its policy', async () => {
    const { clock, control, machine } = world
    world.probe = {
      ...world.probe,
      http: async () => {
        throw new Error('status 500')
      },
    }
    await world.start()
    await clock.settle()
    const one = assignmentOf(job, { ports: { http: 20_000 } })
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    await clock.advance(9_900)
    assert.equal(machine.stops.length, 0)
    await clock.until(() => machine.starts.length === 2)
    await untilPhase(clock, control, one.id, 'failed')
    assert.match(
      control.statuses.get(one.id)?.message ?? '',
      /http check of \/ on port "http" failed 3 times in a row: status 500/,
    )
    assert.ok(control.kinds().includes('task.unhealthy'))
  })
})

describe('the session', () => {
  test('losing it touches no workload, and the next one is told what happened meanwhile', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = batch({ ms: 60_000, code: 0 })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    control.reachable = false
    control.cut()
    await clock.advance(120_000)
    assert.equal(control.phase(one.id), 'running')
    control.reachable = true
    await untilPhase(clock, control, one.id, 'complete')
    assert.equal(machine.starts.length, 1)
    assert.equal(control.mostOpen, 1)
  })

  test('a status is repeated in the next session until it is noted', async () => {
    const { clock, control } = world
    control.noting = false
    const agent = await world.start()
    await clock.settle()
    const job = batch({ ms: 10, code: 0 })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'complete')
    assert.equal(agent.allocations.get(one.id)?.record.noted, false)
    control.statuses.clear()
    control.noting = true
    control.cut()
    await untilPhase(clock, control, one.id, 'complete')
    await clock.until(() => agent.allocations.get(one.id)?.record.noted === true)
  })

  test('a delta that does not follow on what the agent has is not applied; it asks for everything', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.assignments.set(one.id, { assignment: one, spec: job })
    control.version += 5
    control.remove(newId())
    await untilPhase(clock, control, one.id, 'running')
    assert.ok(control.received.includes('resync'))
    assert.equal(machine.starts.length, 1)
  })

  test('told goodbye, it stays away as long as it is asked to', async () => {
    const { clock, control } = world
    await world.start()
    await clock.settle()
    control.say({ type: 'goodbye', message: 'another agent uses this name', retryMs: 60_000 })
    await clock.advance(59_000)
    assert.equal(control.sessions, 1)
    await clock.advance(2_000)
    assert.equal(control.sessions, 2)
  })

  test('it beats, and says when the facts have changed', async () => {
    const { clock, control } = world
    await world.start()
    await clock.advance(20_000)
    assert.ok(control.received.filter((type) => type === 'beat').length >= 4)
    world.facts = { ...testFacts, cores: 8 }
    await clock.advance(60_000)
    assert.equal(control.facts?.cores, 8)
  })

  test('pauses between tries grow to seconds while nobody answers', async () => {
    const { clock, control } = world
    let tries = 0
    control.reachable = false
    const dial = control.dial
    control.dial = (options) => {
      tries += 1
      return dial(options)
    }
    await world.start()
    await clock.advance(60_000)
    assert.ok(tries >= 10 && tries < 25, `${tries} tries`)
  })

  test('an allocation that is no longer named is ended, removed and forgotten', async () => {
    const { clock, control, machine } = world
    const agent = await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const [one, two] = [assignmentOf(job), assignmentOf(job, { slot: 1 })]
    control.put(job, one, two)
    await untilPhase(clock, control, two.id, 'running')
    control.remove(one.id)
    await clock.until(() => agent.allocations.count === 1)
    assert.deepEqual(machine.alive(), [`${two.id}-main`])
    assert.deepEqual(
      world.memory.load().records.map(({ assignment }) => assignment.id),
      [two.id],
    )
  })
})

describe('after kill -9', () => {
  test('ten times running: the same pids, no restart counted, nothing begun twice', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever, side: { role: 'sidecar', ...forever } } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    const pid = control.statuses.get(one.id)?.tasks['main']?.pid
    for (let round = 0; round < 10; round++) {
      world.crash()
      await world.start()
      control.statuses.clear()
      await untilPhase(clock, control, one.id, 'running')
    }
    assert.equal(machine.starts.length, 2)
    assert.equal(control.statuses.get(one.id)?.tasks['main']?.pid, pid)
    assert.equal(control.statuses.get(one.id)?.tasks['main']?.restarts, 0)
  })

  test('what ended meanwhile is reported with its exit code', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = batch({})
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    world.crash()
    machine.exit(`${one.id}-main`, { code: 0 })
    await world.start()
    await untilPhase(clock, control, one.id, 'complete')
    assert.equal(machine.starts.length, 1)
  })

  test('an attempt that vanished is an exit of unknown status and goes through the restart policy', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    world.crash()
    machine.vanish(`${one.id}-main`)
    await world.start()
    await clock.until(() => machine.starts.length === 2)
    assert.ok(
      control.kinds().includes('task.vanished') || (await settled(() => control.kinds().includes('task.vanished'))),
    )
    assert.equal(machine.starts[1], `${one.id}-main/2`)
  })

  test('killed while a task was being started, it does not begin the same attempt again', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    machine.beforeStart = () => new Promise(() => {})
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await clock.until(() => control.statuses.get(one.id)?.phase === 'preparing')
    world.crash()
    machine.beforeStart = () => {}
    await world.start()
    await untilPhase(clock, control, one.id, 'running')
    assert.deepEqual(machine.starts, [`${one.id}-main/2`])
  })

  test('a stop that was under way is finished, and a wait for a restart goes on', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ restart: { delay: '30s' }, tasks: { main: forever } })
    const [one, two] = [assignmentOf(job), assignmentOf(job)]
    control.put(job, one, two)
    await untilPhase(clock, control, two.id, 'running')
    machine.exit(`${two.id}-main`, { code: 1 })
    await clock.until(() => control.statuses.get(two.id)?.tasks['main']?.phase === 'waiting')
    control.reachable = false
    world.crash()
    const known = control.assignments.get(one.id)
    assert.ok(known)
    known.assignment = { ...one, desired: 'stop' }
    await world.start()
    await clock.advance(31_000)
    assert.equal(machine.starts.at(-1), `${two.id}-main/2`)
    control.reachable = true
    await untilPhase(clock, control, one.id, 'stopped')
  })

  test('what was taken off the node while the agent was down is ended', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    world.crash()
    control.assignments.delete(one.id)
    await world.start()
    await clock.until(() => machine.running.size === 0)
    assert.equal(world.agent?.allocations.count, 0)
  })

  test('with its ledger lost it adopts what is assigned and runs, and says so', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { setup: { role: 'prestart', driver: 'fake', config: { ms: 5 } }, main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    world.crash()
    await world.memory.forget(one.id)
    world.lost = 'the ledger could not be read'
    control.statuses.clear()
    await world.start()
    await untilPhase(clock, control, one.id, 'running')
    assert.equal(machine.starts.length, 2)
    await clock.until(() => control.kinds().includes('agent.ledger-lost'))
  })

  test('without a ledger, what is left of an unknown allocation ends only once a full set does not name it', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    world.crash()
    await world.memory.forget(one.id)
    control.assignments.clear()
    control.reachable = false
    const removed: string[] = []
    world.workspace = {
      ...memoryWorkspace,
      list: async () => (removed.includes(one.id) ? [] : [{ allocation: one.id, tasks: ['main'] }]),
      remove: async (id) => void removed.push(id),
    }
    await world.start()
    await clock.advance(60_000)
    assert.equal(machine.alive().length, 1)
    control.reachable = true
    await clock.until(() => machine.alive().length === 0)
    await clock.until(() => control.kinds().includes('agent.leftover-removed'))
    assert.deepEqual(removed, [one.id])
  })

  test('a healthy copy stays healthy while its checks are taken up again', async () => {
    const { clock, control } = world
    await world.start()
    await clock.settle()
    const tcp = { type: 'tcp', port: 'http' } as const
    const job = jobOf({
      ports: { http: 'dynamic' },
      tasks: { main: { driver: 'fake', checks: [tcp, { ...tcp, type: 'http' }] } },
    })
    const one = assignmentOf(job, { ports: { http: 20_000 } })
    control.put(job, one)
    await clock.until(() => control.statuses.get(one.id)?.healthy === true)
    await clock.advance(1000)
    world.crash()
    control.events.length = 0
    await world.start()
    await clock.advance(30_000)
    assert.equal(control.statuses.get(one.id)?.healthy, true)
    assert.deepEqual(control.kinds(), [])
  })

  test('closing the agent in good order leaves workloads running too', async () => {
    const { clock, control, machine } = world
    await world.start()
    await clock.settle()
    const job = jobOf({ tasks: { main: forever } })
    const one = assignmentOf(job)
    control.put(job, one)
    await untilPhase(clock, control, one.id, 'running')
    await world.agent?.close()
    assert.equal(machine.alive().length, 1)
    await world.start()
    await clock.advance(60_000)
    assert.equal(machine.starts.length, 1)
  })
})

async function settled(condition: () => boolean): Promise<boolean> {
  await world.clock.until(condition)
  return true
}
