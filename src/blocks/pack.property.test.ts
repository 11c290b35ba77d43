import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../kit/random.ts'
import { decodeChunk, encodeChunk } from './codec.ts'
import { hashOf, isZero, keyOf } from './hash.ts'
import type { Manifest } from './manifest.ts'
import { entryBytes, packHead, placeAt, readPackIndex, sealPack, writeEntry } from './pack.ts'
import { makeChunkIndex } from './store/chunk-index.ts'
import { diskOnly, openTestStore, readImage, temporaryDirectory, testBuildId } from './testing.ts'

const chunk = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 3000 }),
  fc
    .tuple(fc.nat(255), fc.integer({ min: 1, max: 20_000 }))
    .map(([value, length]) => new Uint8Array(length).fill(value)),
)

function packOf(chunks: readonly Uint8Array[]): { name: string; bytes: Buffer } {
  const entries = Buffer.alloc(chunks.length * entryBytes)
  const pieces: Uint8Array[] = [packHead]
  let offset = packHead.length
  for (const [n, bytes] of chunks.entries()) {
    const { stored, isCompressed } = encodeChunk(bytes)
    writeEntry(entries, n * entryBytes, hashOf(bytes), {
      offset,
      storedBytes: stored.byteLength,
      bytes: bytes.length,
      isCompressed,
    })
    pieces.push(stored)
    offset += stored.byteLength
  }
  const { name, trailer } = sealPack(entries, offset)
  return { name, bytes: Buffer.concat([...pieces, trailer]) }
}

const reading = (bytes: Buffer) => async (offset: number, length: number) => bytes.subarray(offset, offset + length)

test('every chunk of a pack is read back', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(chunk, { minLength: 1, maxLength: 30 }), async (chunks) => {
      const { name, bytes } = packOf(chunks)
      const index = await readPackIndex(name, bytes.length, reading(bytes))
      assert.equal(index.count, chunks.length)
      for (const [n, expected] of chunks.entries()) {
        const place = placeAt(index.entries, n)
        const stored = bytes.subarray(place.offset, place.offset + place.storedBytes)
        assert.deepEqual(Buffer.from(decodeChunk(hashOf(expected), stored, place) ?? []), Buffer.from(expected))
      }
    }),
    { numRuns: 50 },
  )
})

test('a pack of which any bit was turned is found out, by its index or by the chunk', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(chunk, { minLength: 1, maxLength: 5 }),
      fc.nat(),
      fc.nat(7),
      async (chunks, where, bit) => {
        const { name, bytes } = packOf(chunks)
        const at = packHead.length + (where % (bytes.length - packHead.length))
        bytes[at] = (bytes[at] as number) ^ (1 << bit)
        const index = await readPackIndex(name, bytes.length, reading(bytes)).catch(() => undefined)
        if (!index) return
        const harmed = chunks.filter((expected, n) => {
          const place = placeAt(index.entries, n)
          const stored = bytes.subarray(place.offset, place.offset + place.storedBytes)
          const decoded = decodeChunk(hashOf(expected), stored, place)
          // zstd may ignore a bit that means nothing; then the bytes are right.
          return !decoded || !Buffer.from(decoded).equals(expected)
        })
        for (const expected of harmed) {
          const n = chunks.indexOf(expected)
          const place = placeAt(index.entries, n)
          const stored = bytes.subarray(place.offset, place.offset + place.storedBytes)
          assert.equal(decodeChunk(hashOf(expected), stored, place), undefined, 'wrong bytes were given out')
        }
      },
    ),
    { numRuns: 200 },
  )
})

test('a pack that was cut anywhere has no index', async () => {
  const { name, bytes } = packOf([new Uint8Array(5000).fill(7), new Uint8Array(100).fill(9)])
  for (let length = 0; length < bytes.length; length++)
    await assert.rejects(
      readPackIndex(name, length, reading(bytes.subarray(0, length))),
      /pack [0-9a-f]{64} is corrupt/,
    )
})

test('zeros are recognised at any length', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200_000 }), fc.nat(), (length, where) => {
      const bytes = Buffer.alloc(length)
      assert.ok(isZero(bytes))
      bytes[where % length] = 1
      assert.ok(!isZero(bytes))
    }),
  )
})

test('the index of chunks agrees with a map, through additions and removals', () => {
  const idOf = (n: number) => {
    const id = hashOf(Buffer.from(String(n)))
    // Many ids that fall into the same place.
    id.writeUInt32LE(n % 7)
    return id
  }
  const step = fc.oneof(
    fc.record({ add: fc.array(fc.nat(300), { minLength: 1, maxLength: 200 }) }),
    fc.record({ remove: fc.nat(20) }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const index = makeChunkIndex()
      const model = new Map<number, number[]>()
      let next = 0
      for (const each of steps) {
        if ('add' in each) {
          const entries = Buffer.alloc(each.add.length * entryBytes)
          for (const [n, id] of each.add.entries())
            writeEntry(entries, n * entryBytes, idOf(id), { offset: n, storedBytes: 1, bytes: 1, isCompressed: false })
          index.add(next, entries)
          model.set(next++, each.add)
        } else {
          index.remove(each.remove)
          model.delete(each.remove)
        }
      }
      assert.equal(index.size, [...model.values()].flat().length)
      for (let id = 0; id <= 300; id++) {
        const expected = [...model].flatMap(([pack, ids]) =>
          ids.flatMap((of, n) => (of === id ? [`${pack}/${n}`] : [])),
        )
        const found = index.find(idOf(id)).map(({ pack, entry }) => `${pack}/${entry}`)
        assert.deepEqual(found.sort(), expected.sort())
      }
    }),
    { numRuns: 50 },
  )
})

test('builds made in any way from each other hold exactly the bytes that were written', async () => {
  const write = fc.record({ at: fc.nat(255), length: fc.integer({ min: 1, max: 20 }), value: fc.nat(3) })
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  const chunkBytes = 4096
  let builds = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ writes: fc.array(write, { maxLength: 10 }), cut: fc.nat(5000) }), {
        minLength: 1,
        maxLength: 4,
      }),
      async (generations) => {
        let model = Buffer.alloc(1200 * chunkBytes)
        let parent: Manifest | undefined
        const publish = async (content: Buffer, changed: ReadonlySet<number>) => {
          await using writer = await store.write(parent ? { basedOn: parent } : {})
          const base = parent && (await store.open(parent.disk, { packs: parent.packs }))
          const count = Math.ceil(content.length / chunkBytes)
          const ids = await Promise.all(
            Array.from({ length: count }, (_, n) =>
              base && !changed.has(n) && n < Math.floor(base.image.size / chunkBytes)
                ? base.id(n)
                : writer.add(content.subarray(n * chunkBytes, (n + 1) * chunkBytes)),
            ),
          )
          const disk = await writer.image({ size: content.length, chunkBytes }, (n) => ids[n] as Uint8Array, base)
          return writer.publish(diskOnly(testBuildId(`p${builds++}`), disk, parent), parent ? { basedOn: parent } : {})
        }
        for (const [n, { writes, cut }] of generations.entries()) {
          model = Buffer.from(model.subarray(0, model.length - (n === 0 ? 0 : cut)))
          const changed = new Set([Math.floor(model.length / chunkBytes)])
          for (const { at, length, value } of writes) {
            // Some like others, some alone, some zeros again.
            const bytes = value === 0 ? 0 : value === 1 ? 'same' : seededRandom(`${at}${value}`).bytes(64)
            model.fill(bytes as Buffer, at * 4 * chunkBytes, (at * 4 + length) * chunkBytes)
            for (let number = at * 4; number < at * 4 + length; number++) changed.add(number)
          }
          const manifest = await publish(model, changed)
          parent = manifest
          const read = await store.manifest(manifest.id)
          const reader = await store.open(read.disk, { packs: read.packs })
          assert.ok((await readImage(reader)).equals(model), 'other bytes came back')
          for (let number = 0; number < Math.ceil(model.length / chunkBytes); number++) {
            const bytes = model.subarray(number * chunkBytes, (number + 1) * chunkBytes)
            assert.equal(reader.isZero(number), isZero(bytes))
            if (!isZero(bytes)) assert.equal(keyOf(reader.id(number)), keyOf(hashOf(bytes)))
          }
        }
      },
    ),
    { numRuns: 15 },
  )
})
