import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import { connectQmp, type Qmp } from './qmp.ts'
import { qmpDecoder } from './qmp-messages.ts'

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'

test('messages come out whole, however the bytes were cut', () => {
  const lines = [greeting, '{"return": {}, "id": 1}\r\n', '{"event": "STOP", "timestamp": {"seconds": 1}}\r\n']
  const bytes = Buffer.from(`${lines.join('')}{"error": {"class": "GenericError", "desc": "nö"}, "id": 2}\r\n`)
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
      const decoder = qmpDecoder()
      const edges = [0, ...cuts.sort((a, b) => a - b), bytes.length]
      const messages = edges.slice(1).flatMap((end, at) => decoder.push(bytes.subarray(edges[at], end)))
      assert.deepEqual(messages, [
        { kind: 'greeting', version: '7.2.22' },
        { kind: 'return', id: 1, value: {} },
        { kind: 'event', name: 'STOP', data: {} },
        { kind: 'error', id: 2, description: 'nö' },
      ])
    }),
  )
})

test('whatever a QEMU says is a list of messages or a fault', () => {
  const texts = fc.oneof(
    fc.uint8Array(),
    fc.json().map((text) => Buffer.from(`${text}\n`)),
  )
  fc.assert(
    fc.property(fc.array(texts), (pieces) => {
      const decoder = qmpDecoder({ maxLineBytes: 1000 })
      try {
        for (const piece of pieces) decoder.push(piece)
      } catch (error) {
        assert.ok(error instanceof Fault)
      }
    }),
    { numRuns: 500 },
  )
})

test('a line without an end is cut off', () => {
  const decoder = qmpDecoder({ maxLineBytes: 1000 })
  decoder.push(Buffer.alloc(1000, 'x'))
  assert.throws(() => decoder.push(Buffer.alloc(1, 'x')), /more than 1000 bytes/)
})

test('answers are matched to what was asked, in any order', async () => {
  await using peer = await openPeer()
  const both = [peer.qmp.execute('first'), peer.qmp.execute('second')]
  const [first, second] = [await peer.heard('first'), await peer.heard('second')]
  peer.say({ error: { class: 'GenericError', desc: 'no such thing' }, id: second.id })
  peer.say({ return: 'done', id: first.id })
  assert.equal(await both[0], 'done')
  await assert.rejects(both[1] as Promise<unknown>, (error: Fault) => {
    return error.code === 'invalid' && error.message === 'QEMU refused second'
  })
})

test('who stops waiting for an answer gets none, and the next answer is not mistaken for it', async () => {
  await using peer = await openPeer()
  const patience = new AbortController()
  const slow = peer.qmp.execute('slow', {}, patience)
  const { id } = await peer.heard('slow')
  patience.abort(new Error('enough'))
  await assert.rejects(slow, /enough/)
  const quick = peer.qmp.execute('quick')
  peer.say({ return: 'late', id })
  peer.say({ return: 'quick', id: (await peer.heard('quick')).id })
  assert.equal(await quick, 'quick')
})

test('a refusal that names no command of ours is told to all that wait', async () => {
  await using peer = await openPeer()
  const asked = peer.qmp.execute('object-add', { id: 'm0' })
  await peer.heard('object-add')
  peer.say({ error: { class: 'GenericError', desc: "QMP input member 'share' is unexpected" }, id: 'm0' })
  await assert.rejects(asked, (error: Fault) => error.code === 'unavailable')
})

test('when the other end goes, everything under way is told so', async () => {
  await using peer = await openPeer()
  const asked = peer.qmp.execute('anything')
  const event = peer.qmp.event('ANY', () => true, { signal: AbortSignal.timeout(10_000) })
  await peer.heard('anything')
  peer.hangUp()
  await assert.rejects(asked, (error: Fault) => error.code === 'unavailable')
  await assert.rejects(event, (error: Fault) => error.code === 'unavailable')
  await assert.rejects(peer.qmp.execute('more'), (error: Fault) => error.code === 'unavailable')
  await peer.qmp.closed
})

test('an event is given to who waits for it, and remembered', async () => {
  await using peer = await openPeer()
  const signal = AbortSignal.timeout(10_000)
  const completed = peer.qmp.event('MIGRATION', ({ status }) => status === 'completed', { signal })
  peer.say({ event: 'MIGRATION', data: { status: 'active' } })
  peer.say({ event: 'MIGRATION', data: { status: 'completed' } })
  assert.deepEqual(await completed, { status: 'completed' })
  assert.deepEqual(peer.qmp.last('MIGRATION'), { status: 'completed' })
})

interface Peer extends AsyncDisposable {
  qmp: Qmp
  /** Resolves with the id of this command, once it was sent. */
  heard(command: string): Promise<{ id: number }>
  say(message: object): void
  hangUp(): void
}

/** A socket that says what a QEMU says; the tests of the seam talk to real ones. */
async function openPeer(): Promise<Peer> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-qmp-'))
  const path = join(directory, 's')
  const commands: { execute: string; id: number }[] = []
  let socket: Socket | undefined
  const server = createServer((accepted) => {
    socket = accepted
    socket.write(greeting)
    socket.on('data', (piece: Buffer) => {
      for (const line of piece.toString().trim().split('\n')) {
        const command = JSON.parse(line)
        commands.push(command)
        if (command.execute === 'qmp_capabilities') accepted.write(`{"return":{},"id":${command.id}}\n`)
      }
      server.emit('heard')
    })
  }).listen(path)
  const qmp = await connectQmp({ path, clock: systemClock, signal: AbortSignal.timeout(10_000) })
  return {
    qmp,
    heard: async (name) => {
      for (;;) {
        const found = commands.find(({ execute }) => execute === name)
        if (found) return found
        await once(server, 'heard')
      }
    },
    say: (message) => socket?.write(`${JSON.stringify(message)}\n`),
    hangUp: () => socket?.destroy(),
    [Symbol.asyncDispose]: async () => {
      qmp[Symbol.dispose]()
      socket?.destroy()
      server.close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}
