import assert from 'node:assert/strict'
import { once } from 'node:events'
import { PassThrough, type Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { GuestExecution } from '../../guest/channel.ts'
import { SteppedClock } from '../../kit/stepped-clock.ts'
import { SharedCommand } from './shared-command.ts'

const { signal } = new AbortController()
const keepBytes = 65_536

/** A command whose ends are in the test's hands. */
function open() {
  const clock = new SteppedClock()
  const exit = Promise.withResolvers<{ code: number }>()
  const execution = {
    ...{ pid: 7, from: 0, resize: () => {} },
    ...{ stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() },
    kill: (name: string) => void killed.push(name),
    exited: exit.promise,
  }
  const killed: string[] = []
  let letGo = 0
  const shared = new SharedCommand(execution, {
    ...{ clock, keepBytes, patienceMs: 10_000 },
    letGo: () => {
      letGo += 1
    },
  })
  const end = (code: number) => {
    execution.stdout.end()
    execution.stderr.end()
    exit.resolve({ code })
  }
  return { clock, execution, shared, killed, exit, end, letGo: () => letGo }
}

const said = ({ stdout, stderr }: GuestExecution) => Promise.all([text(stdout), text(stderr as Readable)])

test('all who are joined hear all from where they joined, each may write and signal, and all hear the end', async () => {
  const { execution, shared, killed, end } = open()
  const first = shared.join({ from: 0, signal })
  execution.stdout.write('one ')
  execution.stderr.write('two ')
  await turn()
  const second = shared.join({ from: 0, signal })
  const later = shared.join({ from: 4, signal })
  const beyond = shared.join({ from: 1000, signal })
  assert.deepEqual([second.from, later.from, beyond.from], [0, 4, 8])
  const heard = [first, second, later, beyond].map(said)
  first.stdin.write('a')
  second.stdin.write('b')
  assert.equal(await reads(execution.stdin, 2), 'ab')
  beyond.kill('SIGINT')
  assert.deepEqual(killed, ['SIGINT'])
  execution.stdout.write('three')
  await turn()
  end(3)
  assert.deepEqual(await Promise.all(heard), [
    ['one three', 'two '],
    ['one three', 'two '],
    ['three', 'two '],
    ['three', ''],
  ])
  for (const { exited } of [first, second, later, beyond]) assert.deepEqual(await exited, { code: 3 })
})

test('who leaves is missed by nobody, and the last closes the way', async () => {
  const { execution, shared, end, letGo } = open()
  const leaving = new AbortController()
  const first = shared.join({ from: 0, signal: leaving.signal })
  const second = shared.join({ from: 0, signal })
  const heard = said(second)
  leaving.abort(new Error('gone'))
  await assert.rejects(first.exited, /gone/)
  assert.equal(letGo(), 0)
  execution.stdout.write('x')
  await turn()
  assert.ok(execution.stdin.writable)
  end(0)
  assert.deepEqual(await heard, ['x', ''])
  assert.equal(letGo(), 1)
})

test('who reads nothing holds the others up only for a while, and no more is kept meanwhile', async () => {
  const { clock, execution, shared, end } = open()
  const stuck = shared.join({ from: 0, signal })
  const reader = shared.join({ from: 0, signal })
  let bytes = 0
  reader.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length
  })
  const piece = Buffer.alloc(16_384, 'x')
  const writing = (async () => {
    for (let count = 0; count < 16; count += 1)
      if (!execution.stdout.write(piece)) await once(execution.stdout, 'drain')
  })()
  await clock.advance(9000)
  assert.ok(bytes <= 2 * keepBytes, `${bytes} bytes came while one was stuck`)
  await clock.advance(2000)
  await writing
  await turn()
  assert.equal(bytes, 16 * piece.length)
  await assert.rejects(stuck.exited, {
    code: 'exhausted',
    message:
      /output of the command with process id 7 was not read for 10 s while others .*; join it again from offset \d+/,
  })
  // What it missed is as far away as what is kept.
  assert.equal(shared.join({ from: 0, signal }).from, 15 * piece.length + piece.length - keepBytes)
  end(0)
  assert.deepEqual(await reader.exited, { code: 0 })
})

test('one that reads slowly is waited for, and a single one for ever', async () => {
  const { clock, execution, shared, end } = open()
  const slow = shared.join({ from: 0, signal })
  const piece = Buffer.alloc(16_384, 'x')
  let written = 0
  const writing = (async () => {
    for (; written < 16; written += 1) if (!execution.stdout.write(piece)) await once(execution.stdout, 'drain')
  })()
  await clock.advance(3_600_000)
  assert.ok(written < 16)
  const fast = shared.join({ from: 0, signal })
  const heard = said(fast)
  while (written < 16) {
    await clock.advance(9000)
    while (slow.stdout.read() !== null) await turn()
  }
  await writing
  const rest = said(slow)
  await turn()
  end(0)
  assert.equal((await heard)[0].length > 0, true)
  await rest
  assert.deepEqual(await slow.exited, { code: 0 })
})

test('when the way in is lost all are told', async () => {
  const { execution, shared, exit } = open()
  const both = [shared.join({ from: 0, signal }), shared.join({ from: 0, signal })]
  const lost = new Error('the channel is lost')
  exit.reject(lost)
  execution.stdout.destroy(lost)
  execution.stderr.destroy(lost)
  for (const { exited, stdout } of both) {
    await assert.rejects(exited, /is lost/)
    await assert.rejects(text(stdout))
  }
})

async function reads(stream: PassThrough, length: number): Promise<string> {
  let all = ''
  while (all.length < length) {
    const piece: Buffer | null = stream.read()
    if (piece === null) await once(stream, 'readable')
    else all += String(piece)
  }
  return all
}
