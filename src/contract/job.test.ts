import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Allocation, AllocationPhase } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import { type JobInput, JobSpec } from '../model/job.ts'
import type { Job, Slot } from '../model/records.ts'
import { summarizeJob } from './job.ts'
import { page } from './page.ts'
import { hidden, redactSpec, restoreHidden } from './redact.ts'

const spec = (more: Partial<JobInput> = {}) =>
  JobSpec.parse({ name: 'web', count: 2, tasks: { web: { driver: 'process', command: 'x' } }, ...more })
const job = (more: Partial<Job> = {}): Job => ({
  name: 'web',
  version: 2,
  spec: spec(),
  stopped: false,
  createdAt: 1,
  changedAt: 2,
  round: 1,
  blocked: '',
  settled: 0,
  ...more,
})
const allocation = (slot: number, phase: AllocationPhase, more: Partial<Allocation> = {}): Allocation => ({
  id: `a00000000000000${slot}` as AllocationId,
  job: 'web',
  version: 2,
  slot,
  node: 'n000000000000000' as NodeId,
  generation: 0,
  desired: 'run',
  ports: {},
  phase,
  healthy: phase === 'running',
  tasks: {},
  createdAt: 1,
  changedAt: 1,
  ...more,
})
const slot = (index: number, more: Partial<Slot> = {}): Slot => ({
  job: 'web',
  index,
  allocation: `a00000000000000${index}` as AllocationId,
  failures: [],
  notBefore: 0,
  completedRound: null,
  failed: 0,
  ...more,
})
const batch = spec({ type: 'batch' })

test('a job is summed up in one word', () => {
  const both = [slot(0), slot(1)]
  const cases: [string, Job, Slot[], Allocation[]][] = [
    ['running', job(), both, [allocation(0, 'running'), allocation(1, 'running')]],
    ['starting', job(), both, [allocation(0, 'running'), allocation(1, 'preparing')]],
    ['starting', job(), both, [allocation(0, 'running'), allocation(1, 'running', { healthy: false })]],
    ['starting', job(), [], []],
    ['blocked', job({ blocked: 'no room' }), [slot(0)], [allocation(0, 'running')]],
    ['stopping', job({ stopped: true }), both, [allocation(0, 'running')]],
    ['stopped', job({ stopped: true }), both, [allocation(0, 'stopped')]],
    [
      'complete',
      job({ spec: batch }),
      [slot(0, { completedRound: 1 }), slot(1, { completedRound: 1 })],
      [allocation(0, 'complete'), allocation(1, 'complete')],
    ],
    [
      'running',
      job({ spec: batch }),
      [slot(0, { completedRound: 1 }), slot(1)],
      [allocation(0, 'complete'), allocation(1, 'running', { healthy: false })],
    ],
    ['starting', job({ spec: batch, round: 2 }), [slot(0, { completedRound: 1 }), slot(1, { completedRound: 1 })], []],
    [
      'failed',
      job({ spec: batch, blocked: 'not tried again' }),
      [slot(0, { completedRound: 1 }), slot(1)],
      [allocation(0, 'complete'), allocation(1, 'failed')],
    ],
    ['running', job({ spec: spec({ count: 0 }) }), [], []],
  ]
  for (const [state, row, slots, allocations] of cases) {
    const summary = summarizeJob(row, slots, allocations)
    assert.equal(summary.state, state, JSON.stringify(summary))
  }
})

test('copies of an earlier version are counted, and a stopped job wants none', () => {
  const { copies } = summarizeJob(
    job(),
    [slot(0), slot(1)],
    [allocation(0, 'running', { version: 1 }), allocation(1, 'lost')],
  )
  assert.deepEqual(copies, { wanted: 2, live: 1, healthy: 1, complete: 0, failed: 1, old: 1 })
  assert.equal(summarizeJob(job({ stopped: true }), [], []).copies.wanted, 0)
})

const secret = spec({
  tasks: {
    web: {
      driver: 'container',
      image: 'x',
      credentials: { username: 'me', password: 'pw' },
      artifacts: [{ url: 'https://x/y', headers: { authorization: 'Bearer z' } }],
    },
  },
})

test('a shown spec hides its secrets, and sent back it means the same', () => {
  const shown = redactSpec(secret)
  assert.doesNotMatch(JSON.stringify(shown), /"pw"|Bearer z/)
  assert.equal(shown.tasks.web?.credentials?.password, hidden)
  assert.deepEqual(
    JSON.parse(JSON.stringify(restoreHidden(JSON.parse(JSON.stringify(shown)), secret))),
    JSON.parse(JSON.stringify(secret)),
  )
})

test('a hidden secret that is not known here is refused', () => {
  const shown = redactSpec(secret)
  assert.throws(() => restoreHidden(shown, undefined), {
    code: 'invalid',
    message: /tasks\.web\.credentials: .*write the secret itself/,
  })
  assert.deepEqual(restoreHidden(spec(), undefined), spec())
})

test('pages hold every row once, whatever comes and goes in between', () => {
  const rows = ['d', 'a', 'c', 'b', 'e']
  const first = page(rows, (row) => row, { limit: 2 })
  assert.deepEqual(first, { rows: ['a', 'b'], next: 'b' })
  const second = page([...rows.filter((row) => row !== 'b'), 'bb'], (row) => row, { limit: 2, after: 'b' })
  assert.deepEqual(second, { rows: ['bb', 'c'], next: 'c' })
  assert.deepEqual(
    page(rows, (row) => row, { limit: 10, after: 'c' }),
    { rows: ['d', 'e'], next: null },
  )
  assert.deepEqual(
    page([], (row: string) => row, { limit: 1 }),
    { rows: [], next: null },
  )
})
