import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { Fault, type FaultCode } from '../../src/model/fault.ts'
import type { AgentLink, ControlLink, StreamService } from '../../src/wire/link.ts'
import type { AgentMessage, ControlMessage } from '../../src/wire/messages.ts'

/** What every link must do, real or simulated. `connect` gives both ends of a fresh connection. */
export interface LinkRig extends AsyncDisposable {
  connect(services?: Record<string, StreamService>): Promise<{ agent: ControlLink; control: AgentLink }>
  /** Ends every connection at once, as when a machine loses its network and its peer is told. */
  reset(): void
}

const never = new AbortController().signal

export function linkConformance(name: string, makeRig: () => Promise<LinkRig>): void {
  const check = (title: string, body: (rig: LinkRig) => Promise<void>) =>
    test(`${name}: ${title}`, { timeout: 60_000 }, async () => {
      await using rig = await makeRig()
      await body(rig)
    })

  check('what either side says arrives whole and in order', async (rig) => {
    const { agent, control } = await rig.connect()
    const count = 500
    const down = take(agent.messages, count)
    const up = take(control.messages, count)
    for (let n = 0; n < count; n++) {
      void agent.send({ type: 'taken', version: n })
      void control.send({ type: 'noted', report: n })
    }
    assert.deepEqual(
      (await down).map((message) => message.type === 'noted' && message.report),
      upTo(count),
    )
    assert.deepEqual(
      (await up).map((message) => message.type === 'taken' && message.version),
      upTo(count),
    )
  })

  check('a message of many megabytes arrives', async (rig) => {
    const { agent, control } = await rig.connect()
    const event = { at: 1, level: 'info', kind: 'x', message: 'é'.repeat(1000) } as const
    const report: AgentMessage = { type: 'report', report: 1, statuses: [], events: Array(5000).fill(event) }
    const [heard] = await Promise.all([take(control.messages, 1), agent.send(report)])
    assert.deepEqual(heard, [report])
  })

  check('the control plane says goodbye: the agent hears it, and then the end', async (rig) => {
    const { agent, control } = await rig.connect()
    const heard = all(agent.messages)
    const ended = all(control.messages)
    await control.send({ type: 'goodbye', message: 'another agent took over', retryMs: 1000 })
    await control[Symbol.asyncDispose]()
    assert.deepEqual(
      (await heard).map(({ type }) => type),
      ['goodbye'],
    )
    await ended.catch(() => {})
    await assert.rejects(control.open('echo', {}, { signal: never }), isFault('unavailable'))
  })

  check('the agent leaves in good order: the control plane hears its last words, and then the end', async (rig) => {
    const { agent, control } = await rig.connect()
    const heard = all(control.messages)
    void agent.send({ type: 'beat' })
    await agent.send({ type: 'resync' })
    await agent[Symbol.asyncDispose]()
    assert.deepEqual(
      (await heard).map(({ type }) => type),
      ['beat', 'resync'],
    )
  })

  check('a lost connection is told to both sides once, and nothing can be sent any more', async (rig) => {
    const { agent, control } = await rig.connect()
    const up = assert.rejects(all(control.messages), isFault('unavailable'))
    const down = assert.rejects(all(agent.messages), isFault('unavailable'))
    rig.reset()
    await Promise.all([up, down])
    assert.deepEqual(await all(control.messages), [])
    await assert.rejects(agent.send({ type: 'beat' }), isFault('unavailable'))
    await assert.rejects(control.send({ type: 'noted', report: 1 }), isFault('unavailable'))
    await assert.rejects(control.open('echo', {}, { signal: never }), isFault('unavailable'))
  })

  check('after a lost connection the agent connects again', async (rig) => {
    const first = await rig.connect()
    const lost = all(first.agent.messages).catch(() => {})
    rig.reset()
    await lost
    const { agent, control } = await rig.connect()
    await agent.send({ type: 'beat' })
    assert.deepEqual(await take(control.messages, 1), [{ type: 'beat' }])
  })

  check('a message that makes no sense ends the connection', async (rig) => {
    const { agent, control } = await rig.connect()
    const up = assert.rejects(all(control.messages), isFault('invalid'))
    const down = assert.rejects(all(agent.messages), isFault('unavailable'))
    // A side that speaks a dialect we do not know.
    await agent.send({ type: 'taken', version: 'seven' } as unknown as AgentMessage)
    await Promise.all([up, down])
  })

  check('two agents are told apart by what their certificates prove', async (rig) => {
    const one = await rig.connect()
    const other = await rig.connect()
    assert.notEqual(one.control.peer.node, other.control.peer.node)
    assert.match(one.control.peer.keyFingerprint, /^[0-9a-f]{64}$/)
    void one.agent.send({ type: 'taken', version: 1 })
    void other.agent.send({ type: 'taken', version: 2 })
    assert.deepEqual(await take(other.control.messages, 1), [{ type: 'taken', version: 2 }])
    assert.deepEqual(await take(one.control.messages, 1), [{ type: 'taken', version: 1 }])
  })

  check('a service is given its request, and each direction ends on its own', async (rig) => {
    const seen: unknown[] = []
    const { control } = await rig.connect({
      // Like a program that answers only once its input has ended.
      count: async (request, stream) => {
        seen.push(request)
        stream.end(`${(await text(stream)).length} bytes`)
      },
    })
    const stream = await control.open('count', { of: ['ü', 1, null] }, { signal: never })
    stream.write('abc')
    stream.end('def')
    assert.equal(await text(stream), '6 bytes')
    assert.deepEqual(seen, [{ of: ['ü', 1, null] }])
  })

  check('a service may end its output and still read its input to the end', async (rig) => {
    const heard = Promise.withResolvers<string>()
    const { control } = await rig.connect({
      sink: async (_request, stream) => {
        stream.end('ready')
        heard.resolve(await text(stream))
      },
    })
    const stream = await control.open('sink', {}, { signal: never })
    assert.equal(await text(stream), 'ready')
    stream.end('after the end of the other side')
    assert.equal(await heard.promise, 'after the end of the other side')
  })

  check('the Fault of a service comes back as it was thrown', async (rig) => {
    const { control } = await rig.connect({
      refuse: async () => {
        throw new Fault('not_found', 'no allocation "x" runs on this node')
      },
    })
    await assert.rejects(control.open('refuse', {}, { signal: never }), (error) => {
      assert(error instanceof Fault)
      assert.deepEqual([error.code, error.message], ['not_found', 'no allocation "x" runs on this node'])
      return true
    })
  })

  check('a bug in a service comes back without its details', async (rig) => {
    const { control } = await rig.connect({
      broken: async () => {
        throw new TypeError('the secret is 42')
      },
    })
    await assert.rejects(control.open('broken', {}, { signal: never }), (error) => {
      assert(error instanceof Fault && error.code === 'internal')
      assert.doesNotMatch(error.message, /42/)
      return true
    })
  })

  check('a service that the agent does not have is not found', async (rig) => {
    const { control } = await rig.connect()
    await assert.rejects(control.open('toString', {}, { signal: never }), isFault('not_found'))
    await assert.rejects(control.open('a/../b?c', {}, { signal: never }), isFault('not_found'))
  })

  check('giving up before the answer ends the service', async (rig) => {
    const begun = Promise.withResolvers<void>()
    const ended = Promise.withResolvers<void>()
    const { agent, control } = await rig.connect({
      slow: async (_request, _stream, { signal }) => {
        begun.resolve()
        await once(signal, 'abort')
        ended.resolve()
      },
    })
    const stop = new AbortController()
    const opening = control.open('slow', {}, { signal: stop.signal })
    await begun.promise
    stop.abort(new Error('the user pressed ^C'))
    await assert.rejects(opening, /pressed/)
    await ended.promise
    await stillTalks({ agent, control })
  })

  check('giving up later ends the service, and the connection lives on', async (rig) => {
    const ended = Promise.withResolvers<void>()
    const { agent, control } = await rig.connect({
      tail: async (_request, stream, { signal }) => {
        stream.write('first')
        await once(signal, 'abort')
        ended.resolve()
      },
    })
    const stop = new AbortController()
    const stream = await control.open('tail', {}, { signal: stop.signal })
    const [first] = await once(stream, 'data')
    assert.equal(String(first), 'first')
    stop.abort(new Error('enough'))
    await assert.rejects(text(stream))
    await ended.promise
    await stillTalks({ agent, control })
  })

  check('letting go of a stream ends the service too', async (rig) => {
    const ended = Promise.withResolvers<void>()
    const { control } = await rig.connect({
      endless: async (_request, stream, { signal }) => {
        signal.addEventListener('abort', () => ended.resolve())
        while (!signal.aborted) await writeAll(stream, Buffer.alloc(100_000)).catch(() => {})
      },
    })
    const stream = await control.open('endless', {}, { signal: never })
    await once(stream, 'data')
    stream.destroy()
    await ended.promise
  })

  check('a service that fails half-way looks like a failure, not like an end', async (rig) => {
    const { control } = await rig.connect({
      half: async (_request, stream) => {
        await writeAll(stream, Buffer.from('half of it'))
        throw new Error('the disk went away')
      },
    })
    const stream = await control.open('half', {}, { signal: never })
    await assert.rejects(buffer(stream))
  })

  check('a stream on a lost connection looks like a failure at both ends, not like an end', async (rig) => {
    const failed = Promise.withResolvers<void>()
    const { control } = await rig.connect({
      hold: async (_request, stream) => {
        stream.write('here')
        await buffer(stream).catch(() => failed.resolve())
      },
    })
    const stream = await control.open('hold', {}, { signal: never })
    await once(stream, 'data')
    rig.reset()
    await assert.rejects(buffer(stream))
    await failed.promise
  })

  check('the last words of a service are heard although its input is still being written', async (rig) => {
    const { control } = await rig.connect({
      exit: async (_request, stream) => {
        await once(stream, 'data')
        await writeAll(stream, Buffer.alloc(3_000_000, 'x'))
      },
    })
    const stream = await control.open('exit', {}, { signal: never })
    stream.on('error', assert.ifError)
    stream.write('go')
    const typing = setInterval(() => stream.write('more'), 1)
    try {
      // Read late, so that the end of the service overtakes the reader.
      await once(stream, 'readable')
      for (let turns = 0; turns < 50; turns++) await new Promise(setImmediate)
      assert.equal((await buffer(stream)).length, 3_000_000)
    } finally {
      clearInterval(typing)
    }
  })

  check('many megabytes go through unchanged, both ways at once', async (rig) => {
    const { control } = await rig.connect({ echo: async (_request, stream) => pipeline(stream, stream) })
    const stream = await control.open('echo', {}, { signal: never })
    const sent = Buffer.alloc(20_000_000, 'the quick brown fox\0\xff\n')
    stream.end(sent)
    assert((await buffer(stream)).equals(sent))
  })

  check('a hundred streams at once keep apart', async (rig) => {
    const { control } = await rig.connect({ echo: async (_request, stream) => pipeline(stream, stream) })
    const answers = await Promise.all(
      upTo(100).map(async (n) => {
        const stream = await control.open('echo', { n }, { signal: never })
        stream.end(`${n}:`.repeat(1000))
        return text(stream)
      }),
    )
    assert.deepEqual(
      answers,
      upTo(100).map((n) => `${n}:`.repeat(1000)),
    )
  })

  check('a stream that nobody reads makes its writer wait, and holds up nothing else', async (rig) => {
    let written = 0
    const { agent, control } = await rig.connect({
      bulk: async (_request, stream) => {
        for (let n = 0; n < 1000; n++) {
          await writeAll(stream, Buffer.alloc(100_000, n))
          written++
        }
      },
    })
    const stream = await control.open('bulk', {}, { signal: never })
    await settled(() => written)
    assert(written < 500, `${written} pieces were taken although nobody reads`)
    await stillTalks({ agent, control })
    assert.equal((await buffer(stream)).length, 100_000_000)
  })

  check('messages arrive in the middle of a bulk stream', async (rig) => {
    const { agent, control } = await rig.connect({
      bulk: async (_request, stream, { signal }) => {
        while (!signal.aborted) await writeAll(stream, Buffer.alloc(256_000)).catch(() => {})
      },
    })
    const stop = new AbortController()
    const stream = await control.open('bulk', {}, { signal: stop.signal })
    let bytes = 0
    stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length
    })
    await until(() => bytes > 1_000_000)
    await stillTalks({ agent, control })
    const before = bytes
    await until(() => bytes > before)
    stop.abort()
  })

  check('saying more than the other side hears makes the speaker wait', async (rig) => {
    const { agent, control } = await rig.connect()
    const event = { at: 1, level: 'info', kind: 'x', message: 'x'.repeat(2000) } as const
    const report: AgentMessage = { type: 'report', report: 1, statuses: [], events: Array(1000).fill(event) }
    let sent = 0
    const saying = (async () => {
      for (let n = 0; n < 40; n++) {
        await agent.send(report)
        sent++
      }
    })()
    await settled(() => sent)
    assert(sent < 20, `${sent} messages were taken although nobody hears`)
    assert.equal((await take(control.messages, 40)).length, 40)
    await saying
  })
}

/** A word each way. */
async function stillTalks({ agent, control }: { agent: ControlLink; control: AgentLink }): Promise<void> {
  const up = take(control.messages, 1)
  const down = take(agent.messages, 1)
  await agent.send({ type: 'beat' })
  await control.send({ type: 'noted', report: 7 })
  assert.deepEqual(await up, [{ type: 'beat' } satisfies AgentMessage])
  assert.deepEqual(await down, [{ type: 'noted', report: 7 } satisfies ControlMessage])
}

/** The next messages, without ending the conversation as leaving a loop would. */
export async function take<T>(messages: AsyncIterable<T>, count: number): Promise<T[]> {
  const iterator = messages[Symbol.asyncIterator]()
  const taken: T[] = []
  while (taken.length < count) {
    const { value, done } = await iterator.next()
    if (done) throw new Error(`the messages ended after ${taken.length} of ${count}`)
    taken.push(value)
  }
  return taken
}

export async function all<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const heard: T[] = []
  for await (const message of messages) heard.push(message)
  return heard
}

export function isFault(code: FaultCode, words = /./): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof Fault, `a Fault was expected, not ${error}`)
    assert.equal(error.code, code, error.message)
    assert.match(error.message, words)
    return true
  }
}

export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}

/** Waits until the figure has not moved for a while. */
async function settled(figure: () => number): Promise<void> {
  let last = -1
  for (let still = 0; still < 25; still++) {
    if (figure() !== last) still = 0
    last = figure()
    await new Promise((resolve) => setTimeout(resolve, 4))
  }
}

function writeAll(stream: Duplex, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(bytes, (error) => (error ? reject(error) : resolve()))
  })
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n)
}
