import assert from 'node:assert/strict'
import { readdirSync, statSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { newRecord } from '../allocation-runner.ts'
import { assignmentOf, jobOf } from '../testing.ts'
import { SqliteLedger } from './sqlite.ts'

let top = ''
beforeEach(async () => {
  top = await mkdtemp(join(tmpdir(), 'tutti-ledger-'))
})
afterEach(async () => {
  await rm(top, { recursive: true, force: true })
})
const path = () => join(top, 'agent', 'ledger.sqlite')

test('what was saved is there after the ledger is opened again, and nobody else may read it', async () => {
  const ledger = SqliteLedger.open(path(), { now: 1 })
  const job = jobOf({ tasks: { main: { driver: 'fake', env: { A: 'b' } } } })
  const [one, two] = [newRecord(assignmentOf(job), job), newRecord(assignmentOf(job), job)]
  const saves = [ledger.save(one), ledger.save(two), ledger.saveVersion(7)]
  const task = one.tasks['main']
  assert.ok(task)
  task.step = 'running'
  await Promise.all(saves)
  await ledger.forget(two.assignment.id)
  assert.equal(statSync(path()).mode & 0o077, 0)
  await ledger.close()
  const again = SqliteLedger.open(path(), { now: 2 })
  const { records, version, lost } = again.load()
  assert.deepEqual(records, [one])
  assert.equal(version, 7)
  assert.equal(lost, undefined)
  const [record] = records
  assert.ok(record)
  record.phase = 'running'
  await again.save(record)
  await again.forget(record.assignment.id)
  await again.close()
  const third = SqliteLedger.open(path(), { now: 3 })
  assert.deepEqual(third.load().records, [])
  await third.close()
})

for (const [what, spoil] of [
  ['is no database', async () => await writeFile(path(), 'this is not SQLite, '.repeat(1000))],
  [
    'holds what cannot be understood',
    async () => {
      const { DatabaseSync } = await import('node:sqlite')
      const database = new DatabaseSync(path())
      database.exec("update states set json = '{}'")
      database.close()
    },
  ],
] as const) {
  test(`a ledger that ${what} is moved aside and an empty one begun, which says so`, async () => {
    const ledger = SqliteLedger.open(path(), { now: 1 })
    const job = jobOf({ tasks: { main: { driver: 'fake' } } })
    await ledger.save(newRecord(assignmentOf(job), job))
    await ledger.close()
    await spoil()
    const again = SqliteLedger.open(path(), { now: 42 })
    assert.deepEqual(again.load().records, [])
    assert.match(again.load().lost ?? '', /could not be read .*moved to .*unreadable-42/)
    await again.save(newRecord(assignmentOf(job), job))
    await again.close()
    assert.ok(readdirSync(join(top, 'agent')).includes('ledger.sqlite.unreadable-42'))
  })
}
