import assert from 'node:assert/strict'
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../../kit/random.ts'
import { fresh, temporaryDirectory } from '../testing.ts'
import { setBit } from './local-image.ts'
import { Overlay } from './overlay.ts'
import { type Base, dataPath, journalPath, readView, replay } from './overlay-view.ts'

const chunkBytes = 16 * 1024
const baseBytes = 200_000
const size = 260_096 // grown, and no multiple of a block
const bootId = 5n

type Step =
  | { kind: 'write' | 'zero' | 'read'; at: number; length: number; value: number }
  | { kind: 'flush' | 'cut' | 'crash' | 'store' | 'reopen' }

const range = fc.oneof(
  fc.record({ at: fc.nat(size - 1), length: fc.integer({ min: 1, max: 12_000 }) }),
  fc.record({ at: fc.nat(63).map((n) => n * 4096), length: fc.integer({ min: 1, max: 20 }).map((n) => n * 4096) }),
  fc.constant({ at: 0, length: size }),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .tuple(
        fc.constantFrom('write' as const, 'zero' as const, 'read' as const),
        range,
        fc.integer({ min: 1, max: 255 }),
      )
      .map(([kind, { at, length }, value]) => ({ kind, at, length: Math.min(length, size - at), value })),
  },
  {
    weight: 3,
    arbitrary: fc.constantFrom('flush', 'cut', 'crash', 'store', 'reopen').map((kind) => ({ kind }) as Step),
  },
)

/** A base whose chunks appear only when they are fetched. */
function makeBase(directory: string, content: Buffer): Base & Disposable {
  const fd = openSync(join(directory, 'base'), 'w+')
  ftruncateSync(fd, content.length)
  const bits = new Uint8Array(Math.ceil(content.length / chunkBytes / 8))
  return {
    fd,
    size: content.length,
    chunkBytes,
    bits,
    async fetch(first, last) {
      for (let chunk = first; chunk <= last; chunk += 1) {
        writeSync(fd, content.subarray(chunk * chunkBytes, (chunk + 1) * chunkBytes), 0, undefined, chunk * chunkBytes)
        setBit(bits, chunk)
      }
    },
    [Symbol.dispose]: () => closeSync(fd),
  }
}

test('an overlay holds what was written, whatever happens to it in between', async () => {
  const content = fresh(seededRandom('base'), baseBytes)
  let run = 0
  await using scratch = await temporaryDirectory()
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const directory = join(scratch.path, String(run++))
      await mkdir(directory)
      using base = makeBase(directory, content)
      const open = () => new Overlay({ directory, size, base, bootId })
      let overlay = open()
      const model = Buffer.alloc(size)
      model.set(content)
      const epochs: Buffer[] = []
      let isChanged = false
      const check = async (at: number, length: number) => {
        await overlay.prepare(at, length, 'read')
        const read = Buffer.alloc(length, 0xee)
        overlay.read(at, read)
        assert.ok(read.equals(model.subarray(at, at + length)), `bytes ${at} to ${at + length}`)
      }
      for (const one of steps) {
        if (one.kind === 'write' || one.kind === 'zero') {
          await overlay.prepare(one.at, one.length, 'write')
          const before = model.toString('latin1')
          if (one.kind === 'zero') overlay.zero(one.at, one.length)
          else {
            const half = Math.floor(one.length / 2)
            overlay.write(one.at, [Buffer.alloc(half, one.value), Buffer.alloc(one.length - half, one.value)])
          }
          model.fill(one.kind === 'zero' ? 0 : one.value, one.at, one.at + one.length)
          isChanged ||= before !== model.toString('latin1')
        } else if (one.kind === 'read') await check(one.at, one.length)
        else if (one.kind === 'flush') await overlay.flush()
        else if (one.kind === 'cut') {
          const epoch = overlay.cut()
          if (isChanged || epochs.length === 0) assert.equal(epoch, overlay.epoch - 1)
          epochs[epoch] = Buffer.from(model)
          isChanged = false
        } else if (one.kind === 'reopen') {
          await overlay.close()
          overlay = open()
        } else if (one.kind === 'crash') {
          const left = overlay // never closed before the next one is open
          overlay = open()
          await left.close()
        } else
          for (const [epoch, wanted] of epochs.entries()) {
            if (wanted === undefined) continue
            const where = replay(directory, epoch, size, bootId)
            const files = Array.from({ length: epoch + 1 }, (_, number) => openSync(dataPath(directory, number), 'r'))
            await base.fetch(0, Math.ceil(baseBytes / chunkBytes) - 1)
            const read = Buffer.alloc(size)
            readView({ size, where, files, base }, 0, read)
            for (const fd of files) closeSync(fd)
            assert.ok(read.equals(wanted), `epoch ${epoch}`)
          }
      }
      await check(0, size)
      await overlay.close()
    }),
    { numRuns: 150 },
  )
})

test('after the machine died, what was flushed is there, and what was not is whole', async () => {
  await using scratch = await temporaryDirectory()
  const directory = scratch.path
  const open = (boot: bigint) => new Overlay({ directory, size, base: undefined, bootId: boot })
  const first = open(1n)
  first.write(0, [Buffer.alloc(8192, 1)])
  await first.flush()
  first.write(8192, [Buffer.alloc(4096, 2)])
  await first.close()
  writeFileSync(dataPath(directory, 0), Buffer.alloc(4096), { flag: 'a' }) // pages may come in any order
  const next = open(2n)
  const read = Buffer.alloc(16384)
  next.read(0, read)
  assert.deepEqual([read[0], read[8191], read[8192], read[16383]], [1, 1, 0, 0])
  next.write(8192, [Buffer.alloc(4096, 3)])
  await next.close()
  const same = open(2n)
  same.read(0, read)
  assert.deepEqual([read[0], read[8192]], [1, 3])
  await same.close()
})

test('a journal that ends in the middle of a record is taken up before it', async () => {
  await using scratch = await temporaryDirectory()
  const open = () => new Overlay({ directory: scratch.path, size, base: undefined, bootId })
  const first = open()
  first.write(4096, [Buffer.alloc(4096, 7)])
  await first.close()
  writeFileSync(journalPath(scratch.path, 0), Buffer.from([1, 2, 3]), { flag: 'a' })
  const next = open()
  next.write(8192, [Buffer.alloc(4096, 8)])
  await next.close()
  const last = open()
  const read = Buffer.alloc(12288)
  last.read(0, read)
  assert.deepEqual([read[0], read[4096], read[8192]], [0, 7, 8])
  await last.close()
  assert.equal(readFileSync(journalPath(scratch.path, 0)).length % 16, 0)
})

test('trimming a whole large disk is one note', async () => {
  await using scratch = await temporaryDirectory()
  const overlay = new Overlay({ directory: scratch.path, size: 2 ** 34, base: undefined, bootId })
  overlay.write(2 ** 33, [Buffer.alloc(4096, 1)])
  overlay.zero(0, 2 ** 34)
  const read = Buffer.alloc(4096, 1)
  overlay.read(2 ** 33, read)
  assert.ok(read.equals(Buffer.alloc(4096)))
  assert.ok(readFileSync(journalPath(scratch.path, 0)).length < 200)
  await overlay.close()
})
