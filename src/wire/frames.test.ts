import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { encodeFrame, type Frame, FrameDecoder, type FrameKind, frame, maxFrameBytes } from './frames.ts'

const anyFrame = fc.record(
  {
    kind: fc.constantFrom(...(Object.values(frame) as FrameKind[])),
    payload: fc.uint8Array({ maxLength: 3000 }).map((bytes) => Buffer.from(bytes)),
  },
  { noNullPrototype: true },
)

test('frames come out as they went in, however the stream is cut', () => {
  fc.assert(
    fc.property(fc.array(anyFrame), fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1 }), (frames, cuts) => {
      const stream = Buffer.concat(frames.map(({ kind, payload }) => encodeFrame(kind, payload)))
      const decoder = new FrameDecoder()
      const got: Frame[] = []
      for (let from = 0, n = 0; from < stream.length; n++) {
        const size = cuts[n % cuts.length] ?? 1
        got.push(...decoder.push(stream.subarray(from, from + size)))
        from += size
      }
      assert.deepEqual(got, frames)
    }),
  )
})

test('any bytes are frames or an error, and nothing is ever waited for that is over the limit', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 40 }), (pieces) => {
      const decoder = new FrameDecoder()
      let taken = 0
      try {
        for (const piece of pieces)
          for (const { payload } of decoder.push(Buffer.from(piece))) taken += 5 + payload.length
      } catch (error) {
        assert.match(String(error), /unknown frame kind|over the limit/)
      }
      assert(taken <= pieces.reduce((sum, piece) => sum + piece.length, 0))
    }),
    { numRuns: 1000 },
  )
})

test('a frame at the limit passes, one byte more does not', () => {
  const decoder = new FrameDecoder()
  const [most] = [...decoder.push(encodeFrame(frame.stdout, Buffer.alloc(maxFrameBytes, 7)))]
  assert.equal(most?.payload.length, maxFrameBytes)
  assert.throws(() => [...decoder.push(encodeFrame(frame.stdout, Buffer.alloc(maxFrameBytes + 1)))], /over the limit/)
})

test('a large frame in many small pieces is put together in time that grows with its size, not with its square', () => {
  const bytes = encodeFrame(frame.stdout, Buffer.alloc(maxFrameBytes, 1))
  const decoder = new FrameDecoder()
  let seen = 0
  for (let from = 0; from < bytes.length; from += 1) {
    for (const { payload } of decoder.push(bytes.subarray(from, from + 1))) seen += payload.length
  }
  assert.equal(seen, maxFrameBytes)
})
