import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Engine } from '../../src/store/engine.ts'
import { type Entry, encodeChanges } from '../../src/store/entry.ts'
import type { Change } from '../../src/store/store.ts'

/** What one engine needs for the suite: a place of its own that can be opened again and again. */
export interface EnginePlace extends AsyncDisposable {
  /** With a log kept for this many entries, and a checkpoint due after as many. */
  open(options: { keptEntries: number }): Engine
  /** The place as a crash at this instant would leave it, the engine still open. */
  crashed(): Promise<EnginePlace>
}

/** What the core relies on; every engine passes it. */
export function engineConformance(name: string, place: () => Promise<EnginePlace>): void {
  test(`${name}: an empty store is at index 0`, async () => {
    await using here = await place()
    await using engine = opened(here)
    assert.deepEqual(await loadAll(engine), { index: 0, rows: {} })
    assert.deepEqual(await engine.read(0, 10), [])
  })

  test(`${name}: what was appended is there after closing and opening again, the newest of each row`, async () => {
    await using here = await place()
    {
      await using engine = opened(here)
      await engine.load(() => {})
      await engine.append([put(1, 'a', 'old'), put(2, 'b', 'kept')])
      await engine.append([put(3, 'a', 'new'), put(4, 'c', 'gone')])
      await engine.append([remove(5, 'c')])
    }
    await using engine = opened(here)
    assert.deepEqual(await loadAll(engine), { index: 5, rows: { 'dirty/a': 'new', 'dirty/b': 'kept' } })
    await engine.append([put(6, 'd', 'more')])
  })

  test(`${name}: what was appended is there after a crash`, async () => {
    await using here = await place()
    await using engine = opened(here)
    await engine.load(() => {})
    for (let index = 1; index <= 50; index++) await engine.append([put(index, `k${index % 7}`, `v${index}`)])
    await using after = await here.crashed()
    await using again = opened(after)
    const { index, rows } = await loadAll(again)
    assert.equal(index, 50)
    assert.equal(rows['dirty/k1'], 'v50')
    assert.equal(Object.keys(rows).length, 7)
  })

  test(`${name}: entries are read back in order, as they were written`, async () => {
    await using here = await place()
    await using engine = opened(here)
    await engine.load(() => {})
    const entries = Array.from({ length: 20 }, (_, n) => put(n + 1, 'ключ/🎼', `"${n}"\n`))
    await engine.append(entries)
    assert.deepEqual(await engine.read(0, 100), entries)
    assert.deepEqual(await engine.read(15, 2), entries.slice(15, 17))
    assert.deepEqual(await engine.read(20, 10), [])
  })

  test(`${name}: an entry larger than what is read at once is still read`, async () => {
    await using here = await place()
    await using engine = opened(here)
    await engine.load(() => {})
    const large = [put(1, 'a', 'x'.repeat(5_000_000)), put(2, 'b', 'y'.repeat(5_000_000)), put(3, 'c', 'small')]
    await engine.append(large)
    const read: Entry[] = []
    for (let more = await engine.read(0, 10); more.length > 0; more = await engine.read(read.length, 10)) {
      read.push(...more)
    }
    assert.deepEqual(read, large)
  })

  test(`${name}: old entries are dropped, the state they made stays`, async () => {
    await using here = await place()
    const state: Record<string, string> = {}
    {
      await using engine = opened(here, 20)
      await engine.load(() => {})
      let index = 0
      // As long as it takes: when the engine compacts is its own affair.
      for (let oldest = 1; oldest === 1; oldest = (await engine.read(0, 1))[0]?.index ?? 0) {
        for (let n = 0; n < 50; n++) {
          index++
          state[`dirty/k${index % 30}`] = `v${index}`
          await engine.append([put(index, `k${index % 30}`, `v${index}`)])
        }
        assert.ok(index < 100_000, 'nothing was ever dropped')
      }
      const kept = await engine.read(index - 20, 100)
      assert.equal(kept[0]?.index, index - 19, 'the newest entries are kept')
    }
    await using engine = opened(here, 20)
    assert.deepEqual((await loadAll(engine)).rows, state)
  })

  test(`${name}: an append with a wrong index is refused and leaves nothing behind`, async () => {
    await using here = await place()
    await using engine = opened(here)
    await engine.load(() => {})
    await engine.append([put(1, 'a', 'first')])
    await assert.rejects(engine.append([put(2, 'b', 'second'), put(4, 'd', 'fourth')]))
    assert.equal((await engine.read(0, 10)).length, 1)
    await engine.append([put(2, 'b', 'other')])
    assert.deepEqual(await engine.read(1, 10), [put(2, 'b', 'other')])
  })

  test(`${name}: rows of a table that this program does not know are kept`, async () => {
    await using here = await place()
    const unknown: Entry = { index: 1, at: 0, changes: JSON.stringify([['orchestras', 'o1', { players: 99 }]]) }
    {
      await using engine = opened(here, 5)
      await engine.load(() => {})
      await engine.append([unknown])
      for (let index = 2; index < 200; index++) await engine.append([put(index, 'a', `${index}`)])
    }
    await using engine = opened(here, 5)
    const seen: unknown[] = []
    await engine.load((table, key, row) => void (table === 'orchestras' && seen.push([key, row])))
    assert.deepEqual(seen.at(-1), ['o1', { players: 99 }])
  })

  test(`${name}: closing twice is closing once, and nothing is appended afterwards`, async () => {
    await using here = await place()
    const engine = here.open({ keptEntries: 100 })
    await engine.load(() => {})
    await Promise.all([engine.close(), engine.close()])
    await engine.close()
    await assert.rejects(engine.append([put(1, 'a', 'late')]))
  })
}

function opened(place: EnginePlace, keptEntries = 10_000): Engine & AsyncDisposable {
  const engine = place.open({ keptEntries })
  return Object.assign(engine, { [Symbol.asyncDispose]: () => engine.close() })
}

function put(index: number, key: string, value: string): Entry {
  const row = { job: key, reasons: [value], since: index }
  return { index, at: 1000 + index, changes: encodeChanges([{ table: 'dirty', key, row, before: undefined }]) }
}

function remove(index: number, key: string): Entry {
  const change: Change = { table: 'dirty', key, row: undefined, before: undefined }
  return { index, at: 1000 + index, changes: encodeChanges([change]) }
}

async function loadAll(engine: Engine): Promise<{ index: number; rows: Record<string, unknown> }> {
  const rows: Record<string, unknown> = {}
  const { index } = await engine.load((table, key, row) => {
    if (row === undefined) delete rows[`${table}/${key}`]
    else rows[`${table}/${key}`] = (row as { reasons: string[] }).reasons[0]
  })
  return { index, rows }
}
