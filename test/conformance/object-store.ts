import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import type { ObjectStore } from '../../src/blocks/objects.ts'
import { Fault, type FaultCode } from '../../src/model/fault.ts'

/** What every object store promises; see `src/blocks/objects.ts`. `open` gives an empty one. */
export function testObjectStore(
  name: string,
  open: () => Promise<{ objects: ObjectStore } & AsyncDisposable>,
  /** Why a part cannot be shown against the server at hand. */
  cannot: { replacing?: string } = {},
): void {
  const check = (title: string, run: (objects: ObjectStore) => Promise<void>, skip?: string) =>
    test(`${name}: ${title}${skip ? ` (${skip})` : ''}`, { skip: skip !== undefined }, async () => {
      await using opened = await open()
      await run(opened.objects)
    })
  const text = (objects: ObjectStore, key: string, body: string) =>
    objects.put(key, Buffer.from(body), { size: Buffer.byteLength(body) })

  check('what was put is got, with its size', async (objects) => {
    const bytes = Buffer.alloc(300_000, 'block ')
    await objects.put('packs/a', bytes, { size: bytes.length })
    assert.ok((await objects.get('packs/a')).equals(bytes))
    assert.equal(await objects.size('packs/a'), 300_000)
  })

  check('a stream is put whole', async (objects) => {
    const pieces = [Buffer.alloc(70_000, 'a'), Buffer.alloc(70_000, 'b')]
    await objects.put('packs/a', () => Readable.from(pieces), { size: 140_000 })
    assert.ok((await objects.get('packs/a')).equals(Buffer.concat(pieces)))
  })

  check('a stream that breaks leaves nothing', async (objects) => {
    const broken = async function* () {
      yield Buffer.alloc(70_000, 'a')
      throw new Error('the source broke')
    }
    await assert.rejects(objects.put('packs/a', () => Readable.from(broken()), { size: 140_000 }))
    await assert.rejects(objects.put('packs/b', () => Readable.from([Buffer.alloc(10)]), { size: 20 }))
    assert.equal(await objects.size('packs/a'), undefined)
    assert.deepEqual(await Array.fromAsync(objects.list('')), [])
  })

  check('ranges are cut at the end', async (objects) => {
    await text(objects, 'packs/a', '0123456789')
    const range = async (offset: number, length?: number) =>
      (await objects.get('packs/a', { offset, ...(length === undefined ? {} : { length }) })).toString()
    assert.equal(await range(0, 4), '0123')
    assert.equal(await range(3, 4), '3456')
    assert.equal(await range(7), '789')
    assert.equal(await range(7, 400), '789')
    assert.equal(await range(10, 4), '')
    assert.equal(await range(5, 0), '')
  })

  check('the end of an object comes with its size', async (objects) => {
    await text(objects, 'packs/a', '0123456789')
    const tail = async (length: number) => {
      const found = await objects.tail('packs/a', length)
      return [found?.bytes.toString(), found?.size]
    }
    assert.deepEqual(await tail(3), ['789', 10])
    assert.deepEqual(await tail(10), ['0123456789', 10])
    assert.deepEqual(await tail(400), ['0123456789', 10])
    await objects.put('packs/b', Buffer.alloc(0), { size: 0 })
    assert.deepEqual(await objects.tail('packs/b', 3), { bytes: Buffer.alloc(0), size: 0 })
    assert.equal(await objects.tail('packs/c', 3), undefined)
  })

  check('an object of no bytes is an object', async (objects) => {
    await objects.put('packs/a', Buffer.alloc(0), { size: 0 })
    assert.equal(await objects.size('packs/a'), 0)
    assert.equal((await objects.get('packs/a')).length, 0)
  })

  check(
    'what is put again is replaced, and readers see one or the other',
    async (objects) => {
      const bodies = ['a', 'b'].map((letter) => Buffer.alloc(200_000, letter))
      await objects.put('refs/x.json', bodies[0] as Buffer, { size: 200_000 })
      let isWriting = true
      const reading = (async () => {
        while (isWriting) {
          const bytes = await objects.get('refs/x.json')
          assert.ok(
            bodies.some((body) => body.equals(bytes)),
            'a mixture was read',
          )
        }
      })()
      for (let n = 0; n < 20; n++) await objects.put('refs/x.json', bodies[n % 2] as Buffer, { size: 200_000 })
      isWriting = false
      await reading
    },
    cannot.replacing,
  )

  check('what is not there has no size, cannot be got, and may be deleted', async (objects) => {
    assert.equal(await objects.size('packs/none'), undefined)
    await rejectsWith('not_found', objects.get('packs/none'))
    await rejectsWith('not_found', objects.get('packs/none', { offset: 5, length: 5 }))
    await objects.delete('packs/none')
  })

  check('deleted is gone', async (objects) => {
    await text(objects, 'builds/a.json', '{}')
    await objects.delete('builds/a.json')
    assert.equal(await objects.size('builds/a.json'), undefined)
    assert.deepEqual(await Array.fromAsync(objects.list('builds/')), [])
  })

  check('a list is everything that begins so, in order, with sizes and times', async (objects) => {
    for (const key of ['refs/b/2.json', 'refs/a.json', 'packs/1', 'refs/b/1.json', 'builds/1.json', 'refs/b.json'])
      await text(objects, key, key)
    const keys = async (prefix: string) => (await Array.fromAsync(objects.list(prefix))).map(({ key }) => key)
    assert.deepEqual(await keys('refs/'), ['refs/a.json', 'refs/b.json', 'refs/b/1.json', 'refs/b/2.json'])
    assert.deepEqual(await keys('refs/b'), ['refs/b.json', 'refs/b/1.json', 'refs/b/2.json'])
    assert.deepEqual(await keys('none/'), [])
    assert.equal((await keys('')).length, 6)
    for await (const { key, size, changedAt } of objects.list('')) {
      assert.equal(size, key.length)
      assert.ok(Math.abs(Date.now() - changedAt) < 3_600_000, `${changedAt}`)
    }
  })

  check('a list longer than a page is whole', async (objects) => {
    const keys = Array.from({ length: 25 }, (_, n) => `packs/${String(n).padStart(3, '0')}`)
    for (const key of keys) await text(objects, key, 'x')
    assert.deepEqual(
      (await Array.fromAsync(objects.list('packs/'))).map(({ key }) => key),
      keys,
    )
  })

  check('keys that would lead elsewhere are refused', async (objects) => {
    for (const key of ['../a', '/a', 'a//b', 'a/../b', 'A', 'a/.b', ''])
      await rejectsWith('invalid', (async () => objects.put(key, Buffer.alloc(1), { size: 1 }))())
  })

  check('who gives up gets the reason', async (objects) => {
    await text(objects, 'packs/a', 'x')
    const reason = new Error('enough')
    await assert.rejects(objects.get('packs/a', { signal: AbortSignal.abort(reason) }), /enough|abort/i)
    await assert.rejects(
      objects.put('packs/b', Buffer.alloc(1), { size: 1, signal: AbortSignal.abort(reason) }),
      /enough|abort/i,
    )
  })

  check('its name for people holds no credentials', async (objects) => {
    assert.match(objects.url, /^(file|s3|gs):[^@]*$/)
  })
}

export async function rejectsWith(code: FaultCode, work: Promise<unknown>): Promise<Fault> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof Fault, `no Fault but ${error}`)
  assert.equal(error.code, code, error.message)
  return error
}
