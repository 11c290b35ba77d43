import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { KeptOutput, type OutputKind } from './kept-output.ts'

test('what is kept is the end of what was written, of the same kinds in the same order', () => {
  const pieces = fc.array(
    fc.tuple(fc.constantFrom<OutputKind>('stdout', 'stderr'), fc.uint8Array({ minLength: 0, maxLength: 9000 })),
    { maxLength: 30 },
  )
  fc.assert(
    fc.property(pieces, fc.nat(100), (written, from) => {
      const kept = new KeptOutput({ from, most: 40_000 })
      let all = ''
      for (const [kind, bytes] of written) {
        kept.add(kind, Buffer.from(bytes))
        all += [...bytes].map((byte) => `${kind[3]}${byte} `).join('')
      }
      assert.ok(kept.end - kept.start <= 40_000)
      let read = ''
      let offset = kept.start
      for (let piece = kept.read(offset); piece; piece = kept.read(offset)) {
        offset += piece.bytes.length
        read += [...piece.bytes].map((byte) => `${piece?.kind[3]}${byte} `).join('')
      }
      assert.equal(offset, kept.end)
      assert.ok(all.endsWith(read))
      const total = written.reduce((sum, [, bytes]) => sum + bytes.length, 0)
      assert.equal(kept.end, from + total)
      assert.equal(kept.end - kept.start, Math.min(total, 40_000))
    }),
    { numRuns: 50 },
  )
})
