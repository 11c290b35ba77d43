import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { SteppedClock } from '../kit/stepped-clock.ts'
import type { NodeId } from '../model/ids.ts'
import { type Agent, startAgent } from './agent.ts'
import { MemoryLedger } from './ledger/memory.ts'
import type { Ledger } from './ledger.ts'
import { TestMachine } from './test-driver.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts } from './testing.ts'
import { memoryWorkspace } from './workspace/memory.ts'

/** Whatever happens in whatever order: no task runs twice at once, and in the end what is assigned runs and nothing else. */

const service = jobOf({
  name: 'service',
  restart: { attempts: 1000, delay: '1s', maxDelay: '1s' },
  tasks: {
    setup: { role: 'prestart', driver: 'fake', config: { ms: 50 } },
    main: { driver: 'fake' },
    side: { role: 'sidecar', driver: 'fake' },
  },
})

type Deed =
  | { deed: 'add' | 'crash' | 'close' | 'cut' | 'full' | 'stale' }
  | { deed: 'stop' | 'remove' | 'restart' | 'exit' | 'vanish'; which: number }
  | { deed: 'wait'; ms: number }

const deeds = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc
        .constantFrom('add', 'crash', 'close', 'cut', 'full', 'stale')
        .map((deed): Deed => ({ deed: deed as 'add' })),
    },
    {
      weight: 4,
      arbitrary: fc
        .record({ deed: fc.constantFrom('stop', 'remove', 'restart', 'exit', 'vanish'), which: fc.nat(10) })
        .map(({ deed, which }): Deed => ({ deed: deed as 'stop', which })),
    },
    { weight: 3, arbitrary: fc.constantFrom(0, 1, 7, 60, 900, 5000).map((ms): Deed => ({ deed: 'wait', ms })) },
  ),
  { minLength: 5, maxLength: 40 },
)

test('random deeds never run a task twice, and leave exactly what is assigned', async () => {
  await fc.assert(
    fc.asyncProperty(deeds, async (list) => {
      const clock = new SteppedClock()
      const machine = new TestMachine()
      const control = new TestControl()
      const memory = new MemoryLedger()
      let crashed = { yes: false }
      let agent: Agent | undefined
      const node = { id: newId() as string as NodeId, name: 'node' }
      const start = async () => {
        const own = { yes: false }
        crashed = own
        const hang = () => new Promise<never>(() => {})
        const ledger: Ledger = {
          load: () => memory.load(),
          save: (record) => (own.yes ? hang() : memory.save(record)),
          forget: (id) => (own.yes ? hang() : memory.forget(id)),
          saveVersion: (version) => (own.yes ? hang() : memory.saveVersion(version)),
          close: async () => {},
        }
        agent = await startAgent({
          clock,
          random: seededRandom('p'),
          log: silentLog,
          ledger,
          workspace: memoryWorkspace,
          drivers: [machine.driver(clock, { crashed: () => own.yes })],
          probe: { http: async () => {}, tcp: async () => {} },
          node,
          facts: async () => testFacts,
          dial: (options) => (own.yes ? hang() : control.dial(options)),
        })
      }
      await start()
      await clock.settle()
      const pick = (which: number) => [...control.assignments.keys()][which % Math.max(1, control.assignments.size)]
      for (const one of list) {
        const id = 'which' in one ? pick(one.which) : undefined
        const known = id === undefined ? undefined : control.assignments.get(id)
        if (one.deed === 'add') control.put(service, assignmentOf(service))
        else if (one.deed === 'cut') control.cut()
        else if (one.deed === 'full') control.full()
        else if (one.deed === 'stale') control.version += 1
        else if (one.deed === 'wait') await clock.advance(one.ms)
        else if (one.deed === 'crash') {
          crashed.yes = true
          control.cut()
          await start()
        } else if (one.deed === 'close') {
          await agent?.close()
          await start()
        } else if (known && one.deed === 'stop') control.change(known.assignment.id, { desired: 'stop' })
        else if (known && one.deed === 'restart') {
          const { id, generation } = known.assignment
          control.change(id, { generation: generation + 1 })
        } else if (known && one.deed === 'remove') control.remove(known.assignment.id)
        else if (known && one.deed === 'exit') machine.exit(`${known.assignment.id}-main`, { code: 1 })
        else if (known && one.deed === 'vanish') {
          const side = `${known.assignment.id}-side`
          // Only what no agent holds can vanish without an exit.
          crashed.yes = true
          control.cut()
          machine.vanish(side)
          await start()
        }
      }
      control.cut()
      await clock.advance(120_000)
      const wanted = [...control.assignments.values()]
        .filter(({ assignment }) => assignment.desired === 'run')
        .flatMap(({ assignment }) => [`${assignment.id}-main`, `${assignment.id}-side`])
      assert.deepEqual(machine.alive().sort(), wanted.sort())
      assert.deepEqual(machine.broken, [])
      for (const { assignment } of control.assignments.values()) {
        const status = control.statuses.get(assignment.id)
        assert.equal(status?.phase, assignment.desired === 'run' ? 'running' : 'stopped')
        assert.equal(status?.healthy, assignment.desired === 'run')
      }
      assert.equal(agent?.allocations.count, control.assignments.size)
      await agent?.close()
    }),
    { numRuns: 150, ...(process.env['SEED'] ? { seed: Number(process.env['SEED']) } : {}) },
  )
})
