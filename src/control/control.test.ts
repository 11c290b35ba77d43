import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isLive } from '../model/allocation.ts'
import { leaseMs } from '../wire/messages.ts'
import { applyJob } from './actions/apply-job.ts'
import { dryRun } from './actions/dry-run.ts'
import { beginSession, endSession, loseNode } from './actions/node-session.ts'
import { noteReport } from './actions/note-report.ts'
import { restartJob } from './actions/restart-job.ts'
import { revertJob } from './actions/revert-job.ts'
import { drainNode, setEligible } from './actions/steer-node.ts'
import { purgeJob, stopJob } from './actions/stop-job.ts'
import { authenticate, createAccessToken, createJoinToken, revokeToken, spendJoinToken } from './actions/tokens.ts'
import { collectOnce, defaultRetention } from './loops/collect.ts'
import { openTestControl, type TestControl, testFacts, testJob } from './testing.ts'

const by = 'test'
const liveOf = (control: TestControl, job: string) => [...control.store.view.by('allocationsByJob', job)].filter(isLive)

test('a job that is applied is placed on the nodes there are', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await control.addNode('b')
  await applyJob(control, testJob({ name: 'web', count: 4 }), { by })
  await control.settle()
  const live = liveOf(control, 'web')
  assert.equal(live.length, 4)
  assert.equal(new Set(live.map((row) => row.node)).size, 2)
  assert.equal(control.store.view.count('dirty'), 0)
})

test('applying the same spec twice changes nothing', async () => {
  await using control = await openTestControl()
  const first = await applyJob(control, testJob({ name: 'web' }), { by })
  const second = await applyJob(control, testJob({ name: 'web' }), { by })
  assert.equal(first.changed, true)
  assert.equal(second.changed, false)
  assert.equal(second.job.version, 1)
})

test('an apply that expects another version is refused with both versions', async () => {
  await using control = await openTestControl()
  await applyJob(control, testJob({ name: 'web' }), { by })
  await assert.rejects(
    applyJob(control, testJob({ name: 'web', count: 2 }), { by, expectVersion: 0 }),
    /is at version 1, not 0/,
  )
})

test('a job that fits nowhere says why, and is placed as soon as a node joins', async () => {
  await using control = await openTestControl()
  await applyJob(control, testJob({ name: 'web', count: 2 }), { by })
  await control.settle()
  assert.match(control.store.view.get('jobs', 'web')?.blocked ?? '', /no node has joined yet/)
  await control.addNode('a')
  assert.equal(liveOf(control, 'web').length, 2)
  assert.equal(control.store.view.get('jobs', 'web')?.blocked, '')
})

test('a failed copy is tried again after its pause, on another node when there is one', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await control.addNode('b')
  await applyJob(control, testJob({ name: 'web' }), { by })
  await control.settle()
  const [first] = liveOf(control, 'web')
  assert.ok(first)
  await control.report(first.id, { phase: 'failed', message: 'exit code 1' })
  assert.equal(liveOf(control, 'web').length, 0)
  await control.clock.advance(1100)
  await control.settle()
  const [second] = liveOf(control, 'web')
  assert.ok(second)
  assert.notEqual(second.node, first.node)
  assert.equal(control.store.view.get('slots', 'web/0')?.failures.length, 1)
})

test('what is reported only moves forward', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'web' }), { by })
  await control.settle()
  const [row] = liveOf(control, 'web')
  assert.ok(row)
  await control.report(row.id, { phase: 'running', healthy: true })
  await control.report(row.id, { phase: 'preparing' })
  assert.equal(control.store.view.get('allocations', row.id)?.phase, 'running')
})

test('a report of a stale session, or about another node, is ignored', async () => {
  await using control = await openTestControl()
  const a = await control.addNode('a')
  const b = await control.addNode('b', { memory: 0 })
  await applyJob(control, testJob({ name: 'web' }), { by })
  await control.settle()
  const [row] = liveOf(control, 'web')
  assert.equal(row?.node, a)
  const statuses = [{ id: row.id, phase: 'failed' as const, healthy: false, tasks: {} }]
  await noteReport(control, { node: b, epoch: 1, statuses, events: [] })
  await noteReport(control, { node: a, epoch: 0, statuses, events: [] })
  assert.equal(control.store.view.get('allocations', row.id)?.phase, 'pending')
})

test('a batch copy that ended well is not run again, until a restart is asked for', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'once', type: 'batch' }), { by })
  await control.settle()
  const [row] = liveOf(control, 'once')
  assert.ok(row)
  await control.report(row.id, { phase: 'complete' })
  await control.clock.advance(60_000)
  await control.settle()
  assert.equal(liveOf(control, 'once').length, 0)
  await restartJob(control, 'once', { by })
  await control.settle()
  assert.equal(liveOf(control, 'once').length, 1)
})

test('a lost node has its copies replaced, and is not trusted with new ones until it is in step', async () => {
  await using control = await openTestControl()
  const a = await control.addNode('a')
  await applyJob(control, testJob({ name: 'web', count: 2 }), { by })
  await control.settle()
  const b = await control.addNode('b')
  await endSession(control, a, 1)
  const since = control.store.view.get('nodes', a)?.since ?? 0
  await control.clock.advance(leaseMs)
  await loseNode(control, a, since)
  await control.settle()
  assert.deepEqual(
    liveOf(control, 'web').map((row) => row.node),
    [b, b],
  )
  await beginSession(control, a, { facts: testFacts, now: control.clock.now(), keyFingerprint: 'key' })
  assert.equal(control.store.view.get('nodes', a)?.phase, 'returning')
})

test('a node whose clock is far off is told of, by how much, and what helps', async () => {
  await using control = await openTestControl()
  const node = await control.addNode('a')
  await beginSession(control, node, { facts: testFacts, now: control.clock.now() - 600_000, keyFingerprint: 'key' })
  const events = [...control.store.view.all('events')].filter(({ kind }) => kind === 'node.clock')
  assert.equal(events.length, 1)
  assert.match(events[0]?.message ?? '', /the clock of node "a" is 600 s behind; set it by NTP/)
})

test('an update replaces copies one at a time, each after the last is healthy', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'web', count: 3 }), { by })
  await control.settle()
  for (const row of liveOf(control, 'web')) await control.report(row.id, { phase: 'running', healthy: true })
  const tasks = { main: { driver: 'fake' as const, env: { COLOUR: 'blue' }, resources: { cpu: 100, memory: '64MiB' } } }
  await applyJob(control, testJob({ name: 'web', count: 3, tasks }), { by })
  await control.settle()
  for (let replaced = 1; replaced <= 3; replaced++) {
    const stopping = liveOf(control, 'web').filter((row) => row.desired === 'stop')
    assert.equal(stopping.length, 1)
    await control.report(stopping[0]?.id as never, { phase: 'stopped' })
    const fresh = liveOf(control, 'web').find((row) => row.version === 2 && !row.healthy)
    assert.ok(fresh)
    await control.report(fresh.id, { phase: 'running', healthy: true })
    await control.clock.advance(3000)
    await control.settle()
  }
  assert.deepEqual(
    liveOf(control, 'web').map((row) => row.version),
    [2, 2, 2],
  )
  assert.equal(control.store.view.get('jobs', 'web')?.settled, 2)
})

test('raising only the count leaves running copies alone', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'web', count: 2 }), { by })
  await control.settle()
  const before = liveOf(control, 'web').map((row) => row.id)
  await applyJob(control, testJob({ name: 'web', count: 3 }), { by })
  await control.settle()
  const after = liveOf(control, 'web')
  assert.equal(after.length, 3)
  for (const id of before) assert.ok(after.some((row) => row.id === id && row.desired === 'run'))
})

test('a drain moves copies to other nodes and closes the node', async () => {
  await using control = await openTestControl()
  const a = await control.addNode('a')
  await applyJob(control, testJob({ name: 'web' }), { by })
  await control.settle()
  const b = await control.addNode('b')
  await drainNode(control, 'a', { by, deadlineMs: null })
  await control.settle()
  const [row] = liveOf(control, 'web')
  assert.equal(row?.desired, 'stop')
  await control.report(row.id, { phase: 'stopped' })
  assert.deepEqual(
    liveOf(control, 'web').map((each) => each.node),
    [b],
  )
  assert.equal(control.store.view.get('nodes', a)?.eligible, false)
  await setEligible(control, 'a', { by, eligible: true })
  assert.equal(control.store.view.get('nodes', a)?.drain, null)
})

test('a stopped job stops its copies, and is purged only once they have ended', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'web' }), { by })
  await control.settle()
  await assert.rejects(purgeJob(control, 'web', { by }), /is not stopped/)
  await stopJob(control, 'web', { by })
  await control.settle()
  const [row] = liveOf(control, 'web')
  assert.equal(row?.desired, 'stop')
  await assert.rejects(purgeJob(control, 'web', { by }), /is still/)
  await control.report(row.id, { phase: 'stopped' })
  await purgeJob(control, 'web', { by })
  assert.equal(control.store.view.get('jobs', 'web'), undefined)
  for (const table of ['allocations', 'slots', 'jobVersions'] as const) assert.equal(control.store.view.count(table), 0)
})

test('a revert is a new version with the old spec', async () => {
  await using control = await openTestControl()
  await applyJob(control, testJob({ name: 'web', count: 1 }), { by })
  await applyJob(control, testJob({ name: 'web', count: 5 }), { by })
  const { job } = await revertJob(control, 'web', { by })
  assert.equal(job.version, 3)
  assert.equal(job.spec.count, 1)
  await assert.rejects(revertJob(control, 'web', { by, version: 9 }), /no version 9 to revert to; kept are 1, 2, 3/)
})

test('a dry run says what would happen and commits nothing', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  const index = control.store.index
  const answer = dryRun(control, testJob({ name: 'web', count: 2 }))
  assert.deepEqual(answer.moves, { place: 2, stop: 0, keep: 0, nodes: { a: 2 } })
  assert.equal(control.store.index, index)
})

test('a token is shown once, works until it expires or is revoked, and is stored as a hash', async () => {
  await using control = await openTestControl()
  const { row, token } = await createAccessToken(control, {
    by,
    name: 'ci',
    roles: ['compute:read'],
    expiresInMs: 1000,
  })
  assert.equal(authenticate(control.store.view, token, control.clock.now()).name, 'ci')
  assert.ok(!JSON.stringify(row).includes(token.split('_')[2] ?? ''))
  assert.throws(() => authenticate(control.store.view, `${token.slice(0, -1)}x`, control.clock.now()), /not known here/)
  assert.throws(() => authenticate(control.store.view, token, control.clock.now() + 1000), /expired/)
  await revokeToken(control, 'accessTokens', 'ci', { by })
  assert.throws(() => authenticate(control.store.view, token, control.clock.now()), /not known here/)
})

test('a join token buys as many joins as it says, and none after it expired', async () => {
  await using control = await openTestControl()
  const caFingerprint = 'a'.repeat(64)
  const { token } = await createJoinToken(control, {
    by,
    name: 'rack',
    expiresInMs: 1000,
    uses: 1,
    labels: {},
    caFingerprint,
  })
  await control.store.write((tx) => spendJoinToken(tx, token))
  await assert.rejects(
    control.store.write((tx) => spendJoinToken(tx, token)),
    /used up/,
  )
  const other = await createJoinToken(control, {
    by,
    name: 'rack2',
    expiresInMs: 1000,
    uses: null,
    labels: {},
    caFingerprint,
  })
  await control.clock.advance(1000)
  await assert.rejects(
    control.store.write((tx) => spendJoinToken(tx, other.token)),
    /expired/,
  )
})

test('old attempts and old events are forgotten, live ones never', async () => {
  await using control = await openTestControl()
  await control.addNode('a')
  await applyJob(control, testJob({ name: 'web', reschedule: { delay: 0 } }), { by })
  await control.settle()
  for (let attempt = 0; attempt < 8; attempt++) {
    const [row] = liveOf(control, 'web')
    assert.ok(row)
    await control.report(row.id, { phase: 'failed', message: `attempt ${attempt}` })
    await control.clock.advance(5)
  }
  await collectOnce(control, { ...defaultRetention, allocationsPerSlot: 2, events: 3 })
  const rows = [...control.store.view.by('allocationsByJob', 'web')]
  assert.equal(rows.filter((row) => !isLive(row)).length, 2)
  assert.equal(rows.filter(isLive).length, 1)
  assert.equal(control.store.view.count('events'), 3)
})
