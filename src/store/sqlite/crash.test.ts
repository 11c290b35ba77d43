import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, copyFileSync, mkdirSync, readFileSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import fc from 'fast-check'
import { openStore } from '../log-store.ts'
import type { Store } from '../store.ts'
import { countingClock, dirty, temporaryDirectory } from '../testing.ts'
import { verifyIndexes } from '../verify.ts'
import { openSqliteEngine } from './sqlite-engine.ts'

async function open(directory: string): Promise<Store & AsyncDisposable> {
  const limits = { checkpointAfter: { entries: 10, bytes: 1_000_000 }, kept: { entries: 30, bytes: 10_000_000 } }
  const clock = countingClock()
  const store = await openStore({ engine: openSqliteEngine({ directory, clock, ...limits }), clock, debug: true })
  return Object.assign(store, { [Symbol.asyncDispose]: () => store.close() })
}

test('a log cut at any byte, or ending in garbage, opens with all that was acknowledged before', async () => {
  await using directory = await temporaryDirectory()
  const origin = join(directory.path, 'origin')
  await using store = await open(origin)
  const base = await keepDatabase(store, origin, directory.path)
  // How long SQLite's log was when each commit was acknowledged; with so few pages it only grows.
  const acknowledged: { index: number; length: number }[] = []
  for (let n = 1; n <= 60; n++) {
    const { index } = await store.write((tx) => {
      for (let row = 0; row <= n % 4; row++) tx.put('dirty', dirty(`j${row}`, `${n}/${'x'.repeat((n * 97) % 3000)}`))
      tx.put('timers', { id: `t${n}`, at: n, job: 'web', reason: 'test' })
      if (n > 5) tx.delete('timers', `t${n - 5}`)
    })
    acknowledged.push({ index, length: statSync(join(origin, 'state.db-wal')).size })
  }
  const wal = join(base, 'state.db-wal')
  copyFileSync(join(origin, 'state.db-wal'), wal)
  const whole = statSync(wal).size
  assert.ok(whole > 60 * 4096, 'the log was not cut by a checkpoint of SQLite meanwhile')

  let run = 0
  const cut = fc.record({ at: fc.integer({ min: 0, max: whole }), garbage: fc.uint8Array({ maxLength: 9000 }) })
  await fc.assert(
    fc.asyncProperty(cut, async ({ at, garbage }) => {
      const copy = join(directory.path, `cut-${run++}`)
      mkdirSync(copy)
      for (const file of ['state.db', 'state.db-wal']) copyFileSync(join(base, file), join(copy, file))
      truncateSync(join(copy, 'state.db-wal'), at)
      appendFileSync(join(copy, 'state.db-wal'), garbage)
      const safe = acknowledged.findLast(({ length }) => length <= at)?.index ?? 0
      await using reopened = await open(copy)
      const newest = reopened.index
      assert.ok(newest >= safe, `commit ${safe} was acknowledged, ${newest} is the newest`)
      checkPrefix(reopened)
      assert.equal((await reopened.write((tx) => tx.put('dirty', dirty('next')))).index, newest + 1)
    }),
    { numRuns: 40 },
  )
})

/** The database as it was while empty, so that all that is written later is in the log beside it only. */
async function keepDatabase(store: Store, origin: string, parent: string): Promise<string> {
  assert.equal(store.index, 0)
  const base = join(parent, 'base')
  mkdirSync(base)
  copyFileSync(join(origin, 'state.db'), join(base, 'state.db'))
  return base
}

/** State after commit n of the test above is known from n alone. */
function checkPrefix(store: Store): void {
  const n = store.index
  verifyIndexes(store.view)
  const timers = Array.from({ length: Math.min(n, 5) }, (_, back) => `t${n - back}`)
  assert.deepEqual(new Set([...store.view.all('timers')].map(({ id }) => id)), new Set(timers))
  for (let row = 0; row < 4; row++) {
    let newest = n
    while (newest > 0 && newest % 4 < row) newest--
    const expected = newest > 0 ? `${newest}/${'x'.repeat((newest * 97) % 3000)}` : undefined
    assert.equal(store.view.get('dirty', `j${row}`)?.reasons[0], expected, `row j${row} after commit ${n}`)
  }
}

test('kill -9 at any moment, twenty times in a row, loses nothing that was acknowledged', async () => {
  await using directory = await temporaryDirectory()
  const state = join(directory.path, 'state')
  let acknowledged = 0
  for (let round = 0; round < 20; round++) {
    acknowledged = Math.max(acknowledged, await writeUntilKilled(state, 1 + ((round * 37) % 150)))
    await using store = await open(state)
    verifyIndexes(store.view)
    const numbers = [...store.view.all('timers')].map(({ at }) => at).toSorted((a, b) => a - b)
    assert.ok(numbers.length >= acknowledged, `${acknowledged} were acknowledged, ${numbers.length} are there`)
    assert.deepEqual(
      numbers,
      numbers.map((_, n) => n + 1),
      'what is there has no gap',
    )
  }
  assert.ok(acknowledged > 500)
})

/** Runs a writer and kills it some time after it has acknowledged that many; the highest number it acknowledged. */
async function writeUntilKilled(state: string, after: number): Promise<number> {
  const child = spawn(process.execPath, [writer, state], { stdio: ['ignore', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  let acknowledged = 0
  let lines = 0
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      acknowledged = Number(line)
      if (++lines === after) child.kill('SIGKILL')
    }
  } finally {
    child.kill('SIGKILL')
    await exited
  }
  assert.ok(lines >= after, 'the writer ended by itself')
  return acknowledged
}

const writer = join(import.meta.dirname, 'testing-writer.ts')

test('a store that was killed does not keep the next one out, and its database is whole', async () => {
  await using directory = await temporaryDirectory()
  await writeUntilKilled(join(directory.path, 'state'), 20)
  assert.notEqual(readFileSync(join(directory.path, 'state', 'state.pid'), 'utf8'), `${process.pid}\n`)
  await using store = await open(join(directory.path, 'state'))
  assert.ok(store.index >= 20)
})
