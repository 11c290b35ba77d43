import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault, type FaultCode } from '../../model/fault.ts'
import { openStore } from '../log-store.ts'
import type { Store } from '../store.ts'
import { countingClock, dirty, temporaryDirectory } from '../testing.ts'
import { Database } from './database.ts'
import { openSqliteEngine } from './sqlite-engine.ts'

async function open(directory: string): Promise<Store & AsyncDisposable> {
  const clock = countingClock()
  const store = await openStore({ engine: openSqliteEngine({ directory, clock }), clock, debug: true })
  return Object.assign(store, { [Symbol.asyncDispose]: () => store.close() })
}

function fault(code: FaultCode, message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof Fault && error.code === code && message.test(error.message)
}

async function writtenState(parent: string, rows = 500): Promise<string> {
  const state = join(parent, 'state')
  await using store = await open(state)
  await store.write((tx) => {
    for (let n = 0; n < rows; n++) tx.put('dirty', dirty(`j${n}`, 'x'.repeat(200)))
  })
  return state
}

test('the state directory and all in it are for its owner only, even when they were not before', async () => {
  await using directory = await temporaryDirectory()
  const state = join(directory.path, 'deep', 'state')
  mkdirSync(state, { recursive: true, mode: 0o755 })
  writeFileSync(join(state, 'state.db'), '')
  chmodSync(join(state, 'state.db'), 0o644)
  await using store = await open(state)
  await store.write((tx) => tx.put('dirty', dirty('web')))
  assert.equal(statSync(state).mode & 0o777, 0o700)
  const files = readdirSync(state)
  assert.ok(files.includes('state.db-wal'))
  for (const file of files) assert.equal(statSync(join(state, file)).mode & 0o777, 0o600, file)
})

test('a second process with the same state directory is told who has it', async () => {
  await using directory = await temporaryDirectory()
  const state = join(directory.path, 'state')
  const child = spawn(process.execPath, [join(import.meta.dirname, 'testing-writer.ts'), state])
  try {
    await once(child.stdout, 'data')
    assert.throws(
      () => openSqliteEngine({ directory: state, clock: countingClock() }),
      fault('conflict', new RegExp(`another control plane is running .* pid ${child.pid};`)),
    )
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  await using store = await open(state)
  assert.ok(store.index > 0)
})

test('a second store in the same process is kept out as well, until the first is closed', async () => {
  await using directory = await temporaryDirectory()
  const state = join(directory.path, 'state')
  {
    await using _first = await open(state)
    await assert.rejects(open(state), fault('conflict', /another control plane/))
  }
  await using second = await open(state)
  assert.equal(second.index, 0)
})

test('a database of a newer version is refused and left as it is', async () => {
  await using directory = await temporaryDirectory()
  const state = await writtenState(directory.path)
  execute(state, 'PRAGMA user_version = 99')
  await assert.rejects(open(state), fault('invalid', /newer version of Tutti \(format 99, this one knows 1\)/))
  execute(state, 'PRAGMA user_version = 1')
  await using store = await open(state)
  assert.equal(store.view.count('dirty'), 500)
})

test('a database of another program is refused and left as it is', async () => {
  await using directory = await temporaryDirectory()
  const state = join(directory.path, 'state')
  mkdirSync(state)
  execute(state, 'CREATE TABLE recipes (name TEXT)')
  await assert.rejects(open(state), fault('invalid', /another program/))
  using database = new Database(join(state, 'state.db'))
  assert.deepEqual(database.first('SELECT name FROM sqlite_schema'), ['recipes'])
})

test('a damaged database is named, with what to do about it', async () => {
  await using directory = await temporaryDirectory()
  const state = await writtenState(directory.path)
  const path = join(state, 'state.db')
  const whole = readFileSync(path)
  for (const [from, to] of [
    [0, 100],
    [4096, whole.length],
    [0, whole.length],
  ] as const) {
    writeFileSync(path, Buffer.from(whole).fill(0x5a, from, to))
    await assert.rejects(open(state), fault('unavailable', /state\.db is damaged; .*restore a backup/))
  }
  writeFileSync(path, whole)
  await using store = await open(state)
  assert.equal(store.view.count('dirty'), 500)
})

test('a commit missing from the middle of the log is damage, not a smaller state', async () => {
  await using directory = await temporaryDirectory()
  const state = await writtenState(directory.path, 1)
  execute(state, "INSERT INTO log VALUES (3, 0, '[]')")
  await assert.rejects(open(state), fault('unavailable', /damaged/))
})

const isRoot = process.getuid?.() === 0 && process.platform === 'linux'
const skip = isRoot ? false : 'needs root on Linux, to mount a small disk'

test('on a full disk writes are refused with a reason, nothing is lost, and it goes on when there is space', {
  skip,
}, async () => {
  await using directory = await temporaryDirectory()
  const disk = join(directory.path, 'disk')
  mkdirSync(disk)
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', disk])
  await using unmount = new AsyncDisposableStack()
  unmount.defer(() => void execFileSync('umount', ['-l', disk]))
  const state = join(disk, 'state')
  let kept = 0
  {
    await using store = await open(state)
    const write = () => store.write((tx) => tx.put('dirty', dirty(`j${kept}`, 'x'.repeat(20_000))))
    for (; kept < 20; kept++) await write()
    const filler = join(disk, 'filler')
    const free = 8 * 1024 * 1024 - readdirSync(state).reduce((sum, file) => sum + statSync(join(state, file)).size, 0)
    writeFileSync(filler, Buffer.alloc(free - 200_000))
    const fillUp = async () => {
      for (; kept < 1000; kept++) await write()
    }
    await assert.rejects(fillUp(), fault('exhausted', /the disk that holds .* is full; free some space/))
    assert.equal(store.view.count('dirty'), kept)
    rmSync(filler)
    await write()
    kept++
  }
  await using again = await open(state)
  assert.equal(again.view.count('dirty'), kept)
})

test('what is bound to a statement is text or a whole number, never silently NULL', () => {
  using database = new Database(':memory:')
  for (const value of [undefined, Number.NaN, 1.5, {}, new Date(0), true]) {
    assert.throws(() => database.first('SELECT ?', value as never), fault('internal', /only text and whole numbers/))
  }
})

function execute(state: string, sql: string): void {
  using database = new Database(join(state, 'state.db'))
  database.exec(sql)
}
