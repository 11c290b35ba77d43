import assert from 'node:assert/strict'
import { PassThrough, Readable } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '../model/fault.ts'
import { checkAnswer } from './answer.ts'
import { Conversation } from './conversation.ts'
import { LineDecoder, readLines } from './lines.ts'
import { AgentMessage } from './messages.ts'

const anyLine = fc.string({ unit: 'binary' }).map((text) => text.replaceAll('\n', ' '))

test('lines come out as they went in, however the stream is cut, even inside a character', () => {
  fc.assert(
    fc.property(fc.array(anyLine), fc.integer({ min: 1, max: 50 }), (lines, size) => {
      const stream = Buffer.from(lines.map((line) => `${line}\n`).join(''))
      const decoder = new LineDecoder(10_000)
      const got: string[] = []
      for (let from = 0; from < stream.length; from += size)
        got.push(...decoder.push(stream.subarray(from, from + size)))
      assert.deepEqual(
        got,
        lines.map((line) => Buffer.from(line).toString()),
      )
      assert.equal(decoder.pending, 0)
    }),
  )
})

test('a line over the limit is refused before it has ended', () => {
  const decoder = new LineDecoder(1000)
  assert.deepEqual([...decoder.push(Buffer.from(`${'x'.repeat(1000)}\n`))].length, 1)
  assert.throws(
    () => {
      for (let n = 0; n < 1001; n++) [...decoder.push(Buffer.from('x'))]
    },
    (error) => error instanceof Fault && error.code === 'invalid',
  )
  assert.throws(() => [...decoder.push(Buffer.from(`${'x'.repeat(1001)}\n`))], /over the limit of 1000 bytes/)
})

test('a stream that ends inside a line is not taken for a whole one', async () => {
  const got: string[] = []
  await assert.rejects(async () => {
    for await (const line of readLines(Readable.from([Buffer.from('one\ntw')]), 100)) got.push(line)
  }, /in the middle of a line/)
  assert.deepEqual(got, ['one'])
})

test('whatever bytes an agent sends are messages or a Fault, never anything else', async () => {
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)),
    fc.json().map((text) => Buffer.from(`${text}\n`)),
    fc
      .constantFrom(
        '{"type":"beat"}\n',
        '{"type":"taken","version":1}\n',
        '{"type":"beat","__proto__":{}}\n',
        '{"type":',
      )
      .map((text) => Buffer.from(text)),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(piece, { maxLength: 20 }), async (pieces) => {
      const stream = Readable.from(pieces).pipe(new PassThrough())
      stream.on('error', () => {})
      const conversation = new Conversation<AgentMessage, never>(stream, { schema: AgentMessage, peer: 'node x' })
      try {
        for await (const message of conversation.messages()) assert(AgentMessage.safeParse(message).success)
      } catch (error) {
        assert(error instanceof Fault, String(error))
        assert.notEqual(error.code, 'internal')
      }
    }),
    { numRuns: 300 },
  )
})

test('whatever an agent answers is ok or a Fault', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (line) => {
      assert.throws(
        () => checkAnswer(line, 'exec'),
        (error) => error instanceof Fault,
      )
    }),
  )
  checkAnswer('{"ok":true}', 'exec')
  checkAnswer('{ "ok": true }', 'exec')
  assert.throws(() => checkAnswer('{"fault":{"code":"conflict","message":"it ended"}}', 'exec'), /^Fault: it ended$/)
})
