import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, type FaultCode } from '../model/fault.ts'
import { openStore, type StoreOptions } from './log-store.ts'
import { MemoryEngine } from './memory/memory-engine.ts'
import type { Commit, Store } from './store.ts'
import { allocation, countingClock, dirty, testId } from './testing.ts'
import { verifyIndexes } from './verify.ts'

type MemoryStore = Store & AsyncDisposable & { engine: MemoryEngine }

async function memoryStore(options: Partial<StoreOptions> & { keptEntries?: number } = {}): Promise<MemoryStore> {
  const engine = new MemoryEngine({ keptEntries: options.keptEntries ?? 1000 })
  const store = await openStore({ engine, clock: countingClock(), debug: true, ...options })
  return Object.assign(store, { engine, [Symbol.asyncDispose]: () => store.close() })
}

function fault(code: FaultCode, message = /./): (error: unknown) => boolean {
  return (error) => error instanceof Fault && error.code === code && message.test(error.message)
}

test('readers see a write only when it is durable; later writes see it at once', async () => {
  await using store = await memoryStore()
  store.engine.pause()
  const first = store.write((tx) => tx.put('dirty', dirty('web')))
  await turn()
  const second = store.write((tx) => tx.get('dirty', 'web')?.job)
  assert.equal(store.view.get('dirty', 'web'), undefined)
  assert.equal(store.index, 0)
  store.engine.resume()
  assert.deepEqual(await second, { index: 1, result: 'web' })
  assert.deepEqual(await first, { index: 1, result: undefined })
  assert.equal(store.view.get('dirty', 'web')?.job, 'web')
})

test('the writes of one turn are one append, and those made meanwhile are the next', async () => {
  await using store = await memoryStore()
  await Promise.all(Array.from({ length: 100 }, (_, n) => store.write((tx) => tx.put('dirty', dirty(`j${n}`)))))
  assert.equal(store.engine.appends, 1)
  store.engine.pause()
  const first = store.write((tx) => tx.put('dirty', dirty('a')))
  await turn()
  const later = Array.from({ length: 100 }, (_, n) => store.write((tx) => tx.put('dirty', dirty(`k${n}`))))
  await turn()
  store.engine.resume()
  await Promise.all([first, ...later])
  assert.equal(store.engine.appends, 3)
  assert.equal(store.index, 201)
})

test('a write that changes nothing takes no place in the log', async () => {
  await using store = await memoryStore()
  const row = dirty('web')
  await store.write((tx) => tx.put('dirty', row))
  const appends = store.engine.appends
  const again = await store.write((tx) => {
    tx.put('dirty', row)
    tx.put('dirty', dirty('other'))
    tx.delete('dirty', 'other')
    tx.delete('dirty', 'never there')
    return 'same'
  })
  assert.deepEqual(again, { index: 1, result: 'same' })
  assert.equal(store.engine.appends, appends)
})

test('a write that only found something still on its way is answered when that is durable, or fails with it', async () => {
  await using store = await memoryStore()
  store.engine.failNextAppend()
  const [create, find] = await Promise.allSettled([
    store.write((tx) => tx.put('dirty', dirty('web'))),
    store.write((tx) => tx.get('dirty', 'web') !== undefined),
  ])
  assert.equal(create.status, 'rejected')
  assert.equal(find.status, 'rejected')
})

test('a change that throws rejects its own write and nobody else', async () => {
  await using store = await memoryStore()
  const results = await Promise.allSettled([
    store.write((tx) => tx.put('dirty', dirty('a'))),
    store.write((tx) => {
      tx.put('dirty', dirty('b'))
      throw new Fault('conflict', 'somebody was first')
    }),
    store.write((tx) => tx.put('dirty', dirty('c'))),
  ])
  assert.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  assert.deepEqual(
    [...store.view.all('dirty')].map(({ job }) => job),
    ['a', 'c'],
  )
})

test('a change that would wait, write again, or outlive its write is refused', async () => {
  await using store = await memoryStore()
  await assert.rejects(
    store.write(async (tx) => tx.put('dirty', dirty('a'))),
    fault('internal', /promise/),
  )
  await assert.rejects(
    store.write(() => Promise.reject(new Error('nobody waits for this'))),
    fault('internal', /promise/),
  )
  let inner: Promise<unknown> | undefined
  await store.write((tx) => {
    inner = assert.rejects(
      store.write((tx) => tx.put('dirty', dirty('inner'))),
      fault('internal', /inside/),
    )
    tx.put('dirty', dirty('outer'))
  })
  await inner
  const { result: kept } = await store.write((tx) => tx)
  assert.throws(() => kept.put('dirty', dirty('late')), fault('internal', /ended/))
  assert.deepEqual(
    [...store.view.all('dirty')].map(({ job }) => job),
    ['outer'],
  )
})

test('in debug mode rows cannot be changed in place, nor hold what JSON would lose', async () => {
  await using store = await memoryStore()
  await store.write((tx) => tx.put('dirty', dirty('web')))
  const row = store.view.get('dirty', 'web')
  assert.throws(() => row?.reasons.push('more'), TypeError)
  for (const since of [Number.NaN, new Date(0), new Map(), 1n, () => 0]) {
    const bad = { job: 'bad', reasons: [], since: since as number }
    await assert.rejects(
      store.write((tx) => tx.put('dirty', bad)),
      fault('internal', /dirty "bad"\.since/),
    )
  }
})

test('rows can be put while going through what an index or a table returned', async () => {
  await using store = await memoryStore()
  await store.write((tx) => {
    for (let n = 0; n < 10; n++) tx.put('allocations', allocation(n, { node: 1, phase: 'running', job: 'web' }))
  })
  await store.write((tx) => {
    for (const one of tx.all('allocations')) tx.put('allocations', { ...one, desired: 'stop' })
    for (const one of tx.by('liveAllocationsByNode', testId(1))) tx.put('allocations', { ...one, phase: 'stopped' })
    assert.deepEqual([...tx.by('liveAllocationsByNode', testId(1))], [])
  })
  assert.equal([...store.view.by('allocationsByNode', testId(1))].filter(({ phase }) => phase === 'stopped').length, 10)
  verifyIndexes(store.view)
})

test('a transaction has one time', async () => {
  await using store = await memoryStore()
  const seen: number[] = []
  store.subscribe(({ at }) => seen.push(at))
  const { result } = await store.write((tx) => {
    tx.put('dirty', dirty('web'))
    return [tx.now, tx.now]
  })
  assert.equal(result[0], result[1])
  assert.deepEqual(seen, [result[0]])
})

test('a failed append rejects the writers of its batch and of the one behind it, and nobody else', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ fails: fc.boolean(), first: fc.integer({ min: 1, max: 4 }), behind: fc.nat({ max: 4 }) })),
      async (rounds) => {
        await using store = await memoryStore()
        const expected = new Set<string>()
        let name = 0
        for (const { fails, first, behind } of rounds) {
          const writeSome = (count: number) =>
            Array.from({ length: count }, () => {
              const job = `j${name++}`
              if (!fails) expected.add(job)
              return store.write((tx) => {
                tx.put('dirty', dirty(job))
                return tx.count('dirty')
              })
            })
          if (fails) store.engine.failNextAppend()
          store.engine.pause()
          const writes = writeSome(first)
          await turn()
          writes.push(...writeSome(behind))
          store.engine.resume()
          for (const outcome of await Promise.allSettled(writes)) {
            assert.equal(outcome.status, fails ? 'rejected' : 'fulfilled')
            if (outcome.status === 'rejected') assert.ok(fault('unavailable')(outcome.reason))
          }
          assert.deepEqual(new Set([...store.view.all('dirty')].map(({ job }) => job)), expected)
          assert.equal(store.index, expected.size)
          verifyIndexes(store.view)
          const { result } = await store.write((tx) => tx.count('dirty'))
          assert.equal(result, expected.size, 'nothing of what failed is left staged')
        }
      },
    ),
    { numRuns: 100 },
  )
})

test('a full disk is said to be full; any other failure of the engine is worth another try', async () => {
  await using store = await memoryStore()
  const write = () => store.write((tx) => tx.put('dirty', dirty('web')))
  store.engine.failNextAppend(Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' }))
  await assert.rejects(write(), fault('exhausted', /full/))
  store.engine.failNextAppend(new Error('the cable was pulled'))
  await assert.rejects(write(), fault('unavailable', /the cable was pulled/))
  assert.equal((await write()).index, 1)
})

test('a listener that throws is reported and stops neither the store nor the listener after it', async () => {
  const errors: unknown[] = []
  await using store = await memoryStore({ onError: (error) => errors.push(error) })
  const seen: number[] = []
  store.subscribe(() => {
    throw new Error('a bad listener')
  })
  const stop = store.subscribe(({ index }) => seen.push(index))
  await store.write((tx) => tx.put('dirty', dirty('a')))
  stop()
  await store.write((tx) => tx.put('dirty', dirty('b')))
  assert.deepEqual(seen, [1])
  assert.equal(errors.length, 2)
})

test('a listener may write, and sees in the view what it was called for and nothing later', async () => {
  await using store = await memoryStore()
  const written: Promise<unknown>[] = []
  const counts: [number, number][] = []
  store.subscribe(({ changes }) => {
    if (!changes.some(({ table }) => table === 'dirty')) return
    const seen = store.view.count('dirty')
    written.push(
      store.write((tx) => {
        counts.push([seen, tx.count('dirty')])
        tx.put('timers', { id: `t${seen}`, at: 0, job: 'web', reason: 'test' })
      }),
    )
  })
  await Promise.all(['a', 'b', 'c'].map((job) => store.write((tx) => tx.put('dirty', dirty(job)))))
  await Promise.all(written)
  assert.deepEqual(counts, [
    [1, 3],
    [2, 3],
    [3, 3],
  ])
  assert.equal([...store.view.by('timersByJob', 'web')].length, 3)
})

test('followers get every commit once and in order, from wherever they begin, while others write', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 4 }), fc.nat(), async (starts, salt) => {
      await using store = await memoryStore({ recent: { maxCommits: 8, maxRows: 20 } })
      const last = 150
      const follows: Promise<number[]>[] = []
      for (let n = 1; n <= last; n++) {
        if (starts.includes(n - 1)) follows.push(collect(store, n - 1 - ((salt + n) % n), last))
        const written = store.write((tx) => {
          for (let row = 0; row <= n % 3; row++) tx.put('dirty', dirty(`j${row}`, String(n)))
        })
        if ((n + salt) % 5 === 0) await written
      }
      for (const [which, seen] of (await Promise.all(follows)).entries()) {
        const first = seen[0] ?? 0
        assert.deepEqual(seen, numbers(first, last), `follower ${which}`)
      }
    }),
    { numRuns: 40 },
  )
})

async function collect(store: Store, from: number, to: number): Promise<number[]> {
  // Nobody can follow from what is yet to come; what is durable is a good place.
  const start = Math.min(from, store.index)
  const seen: number[] = []
  for await (const { index } of store.follow(start, { signal: new AbortController().signal })) {
    if (seen.length === 0) assert.equal(index, start + 1)
    seen.push(index)
    if (index === to) break
  }
  return seen
}

test('a commit read back from the log says so, and has the rows as they were', async () => {
  await using store = await memoryStore({ recent: { maxCommits: 1, maxRows: 1 } })
  for (const reason of ['one', 'two', 'three']) await store.write((tx) => tx.put('dirty', dirty('web', reason)))
  const seen = await take(store, { from: 0, count: 3 })
  assert.deepEqual(
    seen.map(({ reread, changes }) => [reread, changes[0]?.row, changes[0]?.before]),
    [
      [true, dirty('web', 'one'), undefined],
      [true, dirty('web', 'two'), undefined],
      [undefined, dirty('web', 'three'), dirty('web', 'two')],
    ],
  )
})

test('who follows from before the kept log, or from the future, is told to take a new snapshot', async () => {
  await using store = await memoryStore({ keptEntries: 10, recent: { maxCommits: 5, maxRows: 100 } })
  for (let n = 0; n < 100; n++) await store.write((tx) => tx.put('dirty', dirty(`j${n}`)))
  await assert.rejects(take(store, { from: 3, count: 1 }), fault('exhausted', /no longer reaches back to commit 4/))
  await assert.rejects(take(store, { from: 101, count: 1 }), fault('exhausted', /yet to come/))
  assert.equal((await take(store, { from: 92, count: 8 })).length, 8)
})

test('a follower that was up to date and then sleeps too long is told so', async () => {
  await using store = await memoryStore({ maxLag: 50, recent: { maxCommits: 5, maxRows: 100 } })
  await store.write((tx) => tx.put('dirty', dirty('first')))
  const follower = store.follow(1, { signal: new AbortController().signal })[Symbol.asyncIterator]()
  const next = follower.next()
  await store.write((tx) => tx.put('dirty', dirty('second')))
  assert.equal((await next).value?.index, 2)
  for (let n = 0; n < 60; n++) await store.write((tx) => tx.put('dirty', dirty(`j${n}`)))
  await assert.rejects(
    async () => {
      while (!(await follower.next()).done);
    },
    fault('exhausted', /behind/),
  )
})

test('following ends with its signal, and with a fault when the store is closed first', async () => {
  const store = await memoryStore()
  const stop = new AbortController()
  const ended = take(store, { from: 0, count: 1, signal: stop.signal })
  const cut = take(store, { from: 0, count: 1 })
  await turn()
  stop.abort()
  assert.deepEqual(await ended, [])
  await Promise.all([store.close(), assert.rejects(cut, fault('unavailable', /closed/))])
})

test('closing waits for what was asked before and refuses what is asked after', async () => {
  const store = await memoryStore()
  const before = store.write((tx) => tx.put('dirty', dirty('before')))
  const closing = store.close()
  await assert.rejects(
    store.write((tx) => tx.put('dirty', dirty('after'))),
    fault('unavailable', /closed/),
  )
  await closing
  assert.equal((await before).index, 1)
})

async function take(
  store: Store,
  { from, count, signal = new AbortController().signal }: { from: number; count: number; signal?: AbortSignal },
): Promise<Commit[]> {
  const seen: Commit[] = []
  for await (const commit of store.follow(from, { signal })) if (seen.push(commit) === count) break
  return seen
}

function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, n) => from + n)
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
