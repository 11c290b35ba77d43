import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { test } from 'node:test'
import type { Driver } from '../drivers/driver.ts'
import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { SteppedClock } from '../kit/stepped-clock.ts'
import type { NodeId } from '../model/ids.ts'
import { startAgent } from './agent.ts'
import { ImageKeeper, mostImageBytes, usualImageBudget } from './images.ts'
import { MemoryLedger } from './ledger/memory.ts'
import { TestMachine } from './test-driver.ts'
import { assignmentOf, jobOf, newId, TestControl, testFacts, untilPhase } from './testing.ts'
import { memoryWorkspace } from './workspace/memory.ts'

const minute = 60_000

function keeperOf(evict: NonNullable<Driver['evict']> | undefined) {
  const clock = new SteppedClock()
  const driver: Driver = { ...new TestMachine().driver(clock), ...(evict ? { evict } : {}) }
  return { clock, keeper: new ImageKeeper({ drivers: [driver], budgetBytes: 1000, clock, log: silentLog }) }
}

test('images are kept within their budget every ten minutes, and soon after one came', async () => {
  const asked: number[] = []
  const { clock, keeper } = keeperOf(async (budget) => {
    asked.push(budget)
    return ['sha256:old']
  })
  const ending = new AbortController()
  const running = keeper.run(() => true, { signal: ending.signal })
  await clock.advance(9 * minute)
  assert.deepEqual(asked, [])
  await clock.advance(2 * minute)
  assert.deepEqual(asked, [1000])
  for (let pulls = 0; pulls < 20; pulls++) keeper.ring()
  await clock.advance(minute)
  assert.deepEqual(asked, [1000, 1000], 'one look is enough for all that came at once')
  ending.abort()
  await running
})

test('a driver that cannot remove images now is asked again, and one that does not work is not asked', async () => {
  let works = true
  let asked = 0
  const { clock, keeper } = keeperOf(async () => {
    asked += 1
    throw new Error('busy')
  })
  const ending = new AbortController()
  const running = keeper.run(() => works, { signal: ending.signal })
  await clock.advance(35 * minute)
  assert.equal(asked, 3)
  works = false
  await clock.advance(60 * minute)
  assert.equal(asked, 3)
  ending.abort()
  await running
})

test('an agent whose drivers keep no images has nothing to wake up for', async () => {
  const { clock, keeper } = keeperOf(undefined)
  await keeper.run(() => true, { signal: new AbortController().signal })
  keeper.ring()
  await clock.settle()
})

test('an agent looks after the images once a task that has one was prepared', async () => {
  const asked: number[] = []
  const clock = new SteppedClock()
  const control = new TestControl()
  const plain = new TestMachine().driver(clock)
  const evict = async (budget: number) => {
    asked.push(budget)
    return []
  }
  const healthy = { fake: { healthy: true, attributes: {} } } as const
  await using _agent = await startAgent({
    clock,
    random: seededRandom('images'),
    log: silentLog,
    ledger: new MemoryLedger(),
    workspace: memoryWorkspace,
    drivers: [{ ...plain, can: { ...plain.can, images: true }, evict }],
    probe: { http: async () => {}, tcp: async () => {} },
    node: { id: newId() as string as NodeId, name: 'node-1' },
    imageBudget: 5000,
    facts: async () => ({ ...testFacts, drivers: healthy }),
    dial: (options) => control.dial(options),
  })
  await clock.settle()
  const job = jobOf({ tasks: { main: { driver: 'fake' } } })
  const one = assignmentOf(job)
  control.put(job, one)
  await untilPhase(clock, control, one.id, 'running')
  await clock.advance(minute)
  assert.deepEqual(asked, [5000])
})

test('images may take a tenth of the disk, and no more than 20 GiB', async () => {
  const budget = await usualImageBudget(tmpdir())
  assert.ok(budget > 0 && budget <= mostImageBytes)
  assert.equal(await usualImageBudget('/no/such/directory'), mostImageBytes)
})
