import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import type { WebSocket } from 'ws'
import { systemClock } from '../kit/system-clock.ts'
import { frame } from '../wire/frames.ts'
import { createClient } from './client.ts'
import { type TestServer, testServer } from './testing.ts'

const connect = (server: TestServer) => createClient({ url: server.url, ca: server.ca, token: 't', clock: systemClock })
const message = (kind: number, payload: string | Buffer) => Buffer.concat([Buffer.of(kind), Buffer.from(payload)])

/** A command that echoes its input to both streams and ends with 7 when the input ends. */
function echo(socket: WebSocket): void {
  let first = true
  socket.on('message', (data: Buffer, isBinary: boolean) => {
    if (!isBinary) {
      assert.ok(first)
      first = false
      socket.send(JSON.stringify({ ok: true }))
      return
    }
    const [kind, payload] = [data[0], data.subarray(1)]
    if (kind === frame.stdin) socket.send(message(frame.stdout, payload))
    else if (kind === frame.resize || kind === frame.signal) socket.send(message(frame.stderr, payload))
    else if (kind === frame.stdinEnd) {
      socket.send(message(frame.exit, '{"code":7}'))
      socket.close()
    }
  })
}

test('a command gets its input, gives its output, and ends with its code', async () => {
  await using server = await testServer({ socket: echo })
  await using client = connect(server)
  const execution = await client.exec({ allocation: 'abc' }, { command: ['cat'] })
  execution.resize({ columns: 100, rows: 30 })
  execution.kill('SIGHUP')
  const big = 'x'.repeat(300_000)
  execution.stdin.end(big)
  const [out, err, { code }] = await Promise.all([text(execution.stdout), text(execution.stderr), execution.exited])
  assert.equal(out, big)
  assert.equal(err, '{"columns":100,"rows":30}SIGHUP')
  assert.equal(code, 7)
})

test('a slow reader holds the command back instead of filling the memory', async () => {
  let sent = 0
  await using server = await testServer({
    socket: (socket) => {
      socket.once('message', () => {
        socket.send(JSON.stringify({ ok: true }))
        const chunk = message(frame.stdout, Buffer.alloc(1_000_000))
        const more = () => {
          if (socket.readyState !== socket.OPEN || sent >= 200) return
          sent += 1
          socket.send(chunk, more)
        }
        more()
      })
    },
  })
  await using client = connect(server)
  const stop = new AbortController()
  const execution = await client.exec({ allocation: 'abc' }, { command: ['yes'] }, { signal: stop.signal })
  // The server goes on until the network is full: wait for it to stand still.
  for (let before = -1; before !== sent; ) {
    before = sent
    await systemClock.sleep(100)
  }
  assert.ok(sent < 100, `${sent} MB were taken in though nobody reads`)
  let read = 0
  for await (const chunk of execution.stdout) {
    read += chunk.length
    if (read > 150_000_000) break
  }
  assert.ok(sent >= 150)
  stop.abort(new Error('enough'))
  await assert.rejects(execution.exited)
})

test('a refused command is the fault that the server said', async () => {
  await using refusing = await testServer({
    socket: (socket) => {
      socket.once('message', () => {
        socket.send(JSON.stringify({ fault: { code: 'invalid', message: 'no program "foo"' } }))
        socket.close(1008)
      })
    },
  })
  await using client = connect(refusing)
  await assert.rejects(client.exec({ allocation: 'abc' }, { command: ['foo'] }), {
    code: 'invalid',
    message: 'no program "foo"',
  })
  await using closed = await testServer({})
  await using other = connect(closed)
  await assert.rejects(other.exec({ allocation: 'abc' }, { command: ['foo'] }), {
    code: 'conflict',
    message: 'it is not running',
  })
})

test('a connection that breaks is an error of the command, not an end', async () => {
  await using server = await testServer({
    socket: (socket) => {
      socket.once('message', () => {
        socket.send(JSON.stringify({ ok: true }))
        socket.send(message(frame.stdout, 'half'), () => socket.terminate())
      })
    },
  })
  await using client = connect(server)
  const execution = await client.exec({ allocation: 'abc' }, { command: ['x'] })
  assert.equal(await text(execution.stdout), 'half')
  await assert.rejects(execution.exited, { code: 'unavailable' })
})

test('commands one after the other share a connection, as long as the server keeps it', async () => {
  let close = () => {}
  let lateFrames = 0
  await using server = await testServer({
    socket: (socket) => {
      close = () => socket.close(1000)
      socket.on('message', (data: Buffer, isBinary: boolean) => {
        if (isBinary) {
          lateFrames += 1
          return
        }
        const { command } = JSON.parse(data.toString()) as { command: string[] }
        socket.send(JSON.stringify({ ok: true }))
        socket.send(message(frame.stdout, command.join(' ')))
        socket.send(message(frame.exit, '{"code":3}'))
      })
    },
  })
  await using client = connect(server)
  const run = async (word: string) => {
    const execution = await client.exec({ allocation: 'abc' }, { command: [word] })
    assert.equal(await text(execution.stdout), word)
    assert.equal(await text(execution.stderr), '')
    assert.deepEqual(await execution.exited, { code: 3 })
    return execution
  }
  const first = await run('one')
  first.stdin.end('too late')
  first.kill('SIGTERM')
  await run('two')
  assert.equal(server.connections(), 1)
  assert.equal(lateFrames, 0)
  close()
  await run('three')
  assert.equal(server.connections(), 2)
  // Together they need one each, and none hears of the other.
  await Promise.all(['four', 'five', 'six'].map(run))
})
