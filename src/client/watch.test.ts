import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { Fault } from '../model/fault.ts'
import { createClient } from './client.ts'
import { readServerSentEvents } from './server-sent-events.ts'
import type { Transport } from './transport.ts'

/** A control plane whose watch answers one script per connection; paths that were asked are kept. */
function scripted(...scripts: (string[] | Fault)[]) {
  const asked: string[] = []
  const stop = new AbortController()
  const transport: Transport = {
    url: 'https://control.test',
    request: async ({ path }) => {
      asked.push(path)
      const script = scripts.shift()
      const body = new PassThrough()
      if (script === undefined) {
        stop.abort(new Error('the script is over'))
        throw new Fault('unavailable', 'gone')
      }
      if (script instanceof Fault) {
        if (script.code === 'unavailable') throw script
        body.end(JSON.stringify({ code: script.code, message: script.message }))
        return { status: 400, body }
      }
      for (const event of script) body.write(event)
      body.end()
      return { status: 200, body }
    },
    socket: async () => Promise.reject(new Error('none')),
    [Symbol.asyncDispose]: async () => {},
  }
  const pauses: number[] = []
  const clock = {
    sleep: async (ms: number) => {
      pauses.push(ms)
    },
  }
  return { client: createClient({ transport, clock }), asked, pauses, signal: stop.signal }
}

const row = (index: number, key: string) =>
  `event: snapshot-row\ndata: ${JSON.stringify({ index, table: 'jobs', key, row: { name: key } })}\n\n`
const end = (index: number) => `id: ${index}\nevent: snapshot-end\ndata: {"index":${index}}\n\n`
const change = (index: number, key: string) =>
  `id: ${index}\nevent: change\ndata: ${JSON.stringify({ index, table: 'jobs', key, row: null })}\n\n`

async function follow({ client, signal }: ReturnType<typeof scripted>): Promise<string[]> {
  const seen: string[] = []
  for await (const event of client.watch({ tables: ['jobs'] }, { signal })) {
    if (event.type === 'row' || event.type === 'change') seen.push(`${event.type} ${event.key}`)
    else seen.push(event.type === 'ready' ? `ready ${event.index}` : event.type)
  }
  return seen
}

test('a watch is a snapshot, then changes', async () => {
  const world = scripted([row(5, 'a'), ': a comment\n\n', end(5), change(6, 'b')])
  assert.deepEqual(await follow(world), ['reset', 'row a', 'ready 5', 'change b'])
  assert.equal(world.asked[0], '/v1/watch?tables=jobs')
})

test('a broken connection goes on one index before the last, and says no second snapshot', async () => {
  const world = scripted([end(5), change(7, 'a')], new Fault('unavailable', 'down'), [
    end(6),
    change(7, 'a'),
    change(8, 'b'),
  ])
  assert.deepEqual(await follow(world), ['reset', 'ready 5', 'change a', 'change a', 'change b'])
  assert.deepEqual(world.asked.slice(1, 3), ['/v1/watch?tables=jobs&from=6', '/v1/watch?tables=jobs&from=6'])
})

test('changes that are not kept any more begin a new snapshot', async () => {
  for (const code of ['exhausted', 'invalid'] as const) {
    const world = scripted([end(5)], new Fault(code, 'too far back'), [row(90, 'z'), end(90)])
    assert.deepEqual(await follow(world), ['reset', 'ready 5', 'reset', 'row z', 'ready 90'])
  }
})

test('a first refusal is thrown, and so is a server that stays away', async () => {
  await assert.rejects(follow(scripted(new Fault('denied', 'you may not'))), /you may not/)
  const world = scripted(...Array.from({ length: 100 }, () => new Fault('unavailable', 'down')))
  await assert.rejects(follow(world), /down/)
  assert.ok(world.pauses.length > 5)
  assert.ok(Math.max(...world.pauses) <= 5000)
})

test('an event may come in any pieces, and a letter may be cut in two', async () => {
  const bytes = Buffer.from('id: 1\r\nevent: x\r\ndata: grüß\r\ndata: dich\r\n\r\n: note\r\n\r\ndata: {}\n\n')
  for (const size of [1, 2, 3, 7, 100]) {
    const pieces = async function* () {
      for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
    }
    assert.deepEqual(await Array.fromAsync(readServerSentEvents(pieces())), [
      { id: '1', event: 'x', data: 'grüß\ndich' },
      { event: 'message', data: '{}' },
    ])
  }
})
