import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import { test } from 'node:test'
import { SteppedClock } from '../kit/stepped-clock.ts'
import { NodeFacts } from '../model/node.ts'
import { machineFacts } from './facts.ts'
import { TestMachine } from './test-driver.ts'

test('the facts of this machine fit their schema and are the same when asked twice', async () => {
  const driver = new TestMachine().driver(new SteppedClock())
  const broken = { ...driver, name: 'broken', facts: () => Promise.reject(new Error('no socket')) }
  const options = {
    clock: new SteppedClock(),
    root: tmpdir(),
    drivers: [driver, broken],
    version: '1',
    labels: { rack: 'a' },
    counters: { gpus: 2 },
  }
  const facts = await machineFacts(options)
  assert.deepEqual(NodeFacts.parse(facts), facts)
  assert.ok(facts.cores > 0 && facts.memory > 0 && facts.disk > 0 && facts.coreMHz > 0)
  assert.deepEqual(facts.drivers['broken'], { healthy: false, reason: 'no socket', attributes: {} })
  assert.deepEqual(facts.labels, { rack: 'a' })
  assert.equal((await machineFacts(options)).memory, facts.memory)
})

test('a driver that hangs does not keep the node from saying what it is', async () => {
  const clock = new SteppedClock()
  const driver = new TestMachine().driver(clock)
  const stuck = { ...driver, name: 'stuck', facts: () => new Promise<never>(() => {}) }
  const asked = machineFacts({ clock, root: tmpdir(), drivers: [driver, stuck], version: '1' })
  let said = false
  void asked.then(() => {
    said = true
  })
  while (!said) await clock.advance(1000)
  const { drivers } = await asked
  assert.equal(drivers.fake?.healthy, true)
  assert.match(drivers.stuck?.reason ?? '', /did not say within 10 s/)
})
