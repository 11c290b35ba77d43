import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLive } from '../model/allocation.ts'
import { keyOf, type TableName } from '../model/records.ts'
import type { Engine } from './engine.ts'
import { openStore } from './log-store.ts'
import { MemoryEngine, MemoryMedium } from './memory/memory-engine.ts'
import { openSqliteEngine } from './sqlite/sqlite-engine.ts'
import type { Commit, Store, View } from './store.ts'
import { allocation, countingClock, dirty, temporaryDirectory, testId } from './testing.ts'
import { verifyIndexes } from './verify.ts'

/** The store against the most naive one that could be: a map. */

type Op =
  | { put: 'allocation'; n: number; node: number; live: boolean }
  | { put: 'dirty'; n: number }
  | { delete: TableName; n: number }
type Step = { write: Op[][] } | { fail: Op[] } | 'restart' | 'settle'

const key = fc.nat({ max: 7 })
const op: fc.Arbitrary<Op> = fc.oneof(
  fc.record({ put: fc.constant('allocation' as const), n: key, node: fc.nat({ max: 2 }), live: fc.boolean() }),
  fc.record({ put: fc.constant('dirty' as const), n: key }),
  fc.record({ delete: fc.constantFrom<TableName>('allocations', 'dirty'), n: key }),
)
const ops = fc.array(op, { maxLength: 6 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ write: fc.array(ops, { minLength: 1, maxLength: 4 }) }) },
  { weight: 1, arbitrary: fc.record({ fail: ops }) },
  { weight: 2, arbitrary: fc.constant('settle' as const) },
  { weight: 1, arbitrary: fc.constant('restart' as const) },
)
const steps = fc.array(step, { maxLength: 25 })

test('any sequence of writes and restarts ends as a plain map would, in memory', async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const medium = new MemoryMedium()
      await play(all, () => new MemoryEngine({ medium, keptEntries: 5 }))
    }),
    { numRuns: 200 },
  )
})

test('any sequence of writes and restarts ends as a plain map would, on SQLite', async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      await using directory = await temporaryDirectory()
      const limits = { checkpointAfter: { entries: 1, bytes: 500 }, kept: { entries: 5, bytes: 100_000 } }
      await play(all, () => openSqliteEngine({ directory: directory.path, clock: countingClock(), ...limits }))
    }),
    { numRuns: 25 },
  )
})

class Model {
  readonly allocations = new Map<string, ReturnType<typeof allocation>>()
  readonly dirty = new Map<string, ReturnType<typeof dirty>>()

  check(view: View): void {
    assert.equal(view.count('allocations'), this.allocations.size)
    assert.equal(view.count('dirty'), this.dirty.size)
    assert.deepEqual(
      sorted(view.all('allocations'), keyOf.allocations),
      sorted(this.allocations.values(), keyOf.allocations),
    )
    assert.deepEqual(sorted(view.all('dirty'), keyOf.dirty), sorted(this.dirty.values(), keyOf.dirty))
    for (let node = 0; node < 3; node++) {
      const here = [...this.allocations.values()].filter((one) => one.node === testId(node))
      assert.deepEqual(
        sorted(view.by('allocationsByNode', testId(node)), keyOf.allocations),
        sorted(here, keyOf.allocations),
      )
      const live = sorted(here.filter(isLive), keyOf.allocations)
      assert.deepEqual(sorted(view.by('liveAllocationsByNode', testId(node)), keyOf.allocations), live)
    }
  }
}

/** What a follower who applies changes to a copy would have; it checks what the commits say was before. */
class Replica {
  readonly rows = new Map<string, object>()
  index = 0

  apply = (commit: Commit): void => {
    assert.equal(commit.index, this.index + 1)
    this.index = commit.index
    for (const change of commit.changes) {
      const name = `${change.table}/${change.key}`
      assert.deepEqual(change.before, this.rows.get(name))
      if (change.row === undefined) this.rows.delete(name)
      else this.rows.set(name, change.row)
    }
  }
}

async function play(steps: readonly Step[], engine: () => Engine): Promise<void> {
  const model = new Model()
  const replica = new Replica()
  const clock = countingClock()
  let listenerError: unknown
  const open = async () => {
    const store = await openStore({
      engine: engine(),
      clock,
      debug: true,
      onError: (error) => (listenerError ??= error),
    })
    store.subscribe(replica.apply)
    return store
  }
  let store = await open()
  let pending: Promise<unknown>[] = []
  try {
    for (const step of steps) {
      if (step === 'settle') await Promise.all(pending.splice(0))
      else if (step === 'restart') {
        await Promise.all([...pending.splice(0), store.close()])
        store = await open()
        checkDurable(store, model, replica)
      } else if ('fail' in step) pending.push(failingWrite(store, step.fail))
      else for (const ops of step.write) pending.push(write(store, model, ops))
    }
    await Promise.all(pending)
    pending = []
    checkDurable(store, model, replica)
    if (listenerError !== undefined) throw listenerError
  } finally {
    await Promise.allSettled(pending)
    await store.close()
  }
}

function checkDurable(store: Store, model: Model, replica: Replica): void {
  verifyIndexes(store.view)
  model.check(store.view)
  assert.equal(replica.index, store.index)
  assert.equal(replica.rows.size, model.allocations.size + model.dirty.size)
}

function write(store: Store, model: Model, ops: readonly Op[]): Promise<unknown> {
  return store.write((tx) => {
    model.check(tx)
    for (const op of ops) {
      if ('delete' in op) {
        tx.delete(op.delete, testId(op.n))
        if (op.delete === 'dirty') model.dirty.delete(testId(op.n))
        else model.allocations.delete(testId(op.n))
      } else if (op.put === 'dirty') {
        const row = dirty(testId(op.n), String(tx.now))
        tx.put('dirty', row)
        model.dirty.set(row.job, row)
      } else {
        const row = allocation(op.n, { node: op.node, phase: op.live ? 'running' : 'failed', job: 'web' })
        tx.put('allocations', row)
        model.allocations.set(row.id, row)
      }
    }
    model.check(tx)
    verifyIndexes(tx)
  })
}

async function failingWrite(store: Store, ops: readonly Op[]): Promise<void> {
  const refusal = new Error('the change refuses')
  const writing = store.write((tx) => {
    for (const op of ops) {
      if ('delete' in op) tx.delete(op.delete, testId(op.n))
      else tx.put('dirty', dirty(testId(op.n), 'must never be seen'))
    }
    throw refusal
  })
  await assert.rejects(writing, refusal)
}

function sorted<T>(rows: Iterable<T>, key: (row: T) => string): T[] {
  return [...rows].toSorted((a, b) => (key(a) < key(b) ? -1 : 1))
}
