import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { lacking, registryUser, startRegistry } from '../../test/fixtures/registry.ts'
import { systemClock } from '../kit/system-clock.ts'
import { Fault } from '../model/fault.ts'
import { ImageStore, type ObtainOptions } from './store.ts'

const skip = lacking() ?? false
const why = skip === false ? '' : ` (skipped: ${skip})`
const architecture = process.arch === 'x64' ? 'amd64' : process.arch
const { signal } = new AbortController()

async function world(t: TestContext, access: 'open' | 'private' = 'open') {
  const registry = await startRegistry({ access })
  const directory = await mkdtemp(join(tmpdir(), 'tutti-images-'))
  t.after(async () => {
    await registry[Symbol.asyncDispose]()
    await rm(directory, { recursive: true, force: true })
  })
  const store = new ImageStore({ directory, clock: systemClock, architecture })
  const said: string[] = []
  const obtain = (name: string, options: Partial<ObtainOptions> = {}) =>
    store.obtain(name, {
      ...{ pull: 'missing', credentials: undefined, signal, progress: (line) => said.push(line), ...options },
    })
  return { registry, directory, store, obtain, said }
}

function fault(code: string, pattern: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof Fault, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, pattern)
    return true
  }
}

test(`an image is pulled once and then found, with what it says of itself${why}`, { skip }, async (t) => {
  const { registry, obtain, said } = await world(t)
  const name = await registry.push('lib/one:1', { entrypoint: ['/bin/sh'], command: ['-c', 'true'], env: { A: 'b' } })
  const { image } = await obtain(name)
  assert.deepEqual([image.entrypoint, image.command], [['/bin/sh'], ['-c', 'true']])
  assert.ok(image.env.includes('A=b'))
  assert.ok(image.bytes > 100_000)
  assert.match(await readFile(join(image.rootfs, 'etc/passwd'), 'utf8'), /guest/)
  assert.ok(said.some((line) => line.includes('pulling')))
  const before = registry.requests.length
  assert.equal((await obtain(name)).image.digest, image.digest)
  assert.equal(registry.requests.length, before)
})

test(`a private image comes with the right credentials, and no secret is left on disk${why}`, { skip }, async (t) => {
  const { registry, obtain, directory } = await world(t, 'private')
  const name = await registry.push('lib/secret:1')
  await assert.rejects(obtain(name), fault('denied', /needs credentials/))
  const wrong = { username: 'ada', password: 'guess' }
  await assert.rejects(obtain(name, { credentials: wrong }), fault('denied', /refused the credentials of user "ada"/))
  assert.ok((await obtain(name, { credentials: registryUser })).image)
  assert.deepEqual(await readdir(join(directory, 'pulls')), [])
})

test(`a missing image, a missing registry and a forbidden pull each have their sentence${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  await assert.rejects(obtain(`${registry.host}/lib/none:1`), fault('not_found', /does not exist/))
  await assert.rejects(obtain('127.0.0.1:1/lib/none:1'), fault('unavailable', /cannot reach registry 127.0.0.1:1/))
  await assert.rejects(obtain(`${registry.host}/lib/none:1`, { pull: 'never' }), fault('not_found', /never to pull/))
})

test(`an image for another architecture is refused, saying what it offers${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const alone = await registry.push('lib/other:1', { architecture: 's390x' })
  await assert.rejects(obtain(alone), fault('invalid', /is for s390x, and this node is/))
  const list = await registry.pushIndex('lib/other:list', [{ reference: alone, architecture: 's390x' }])
  await assert.rejects(obtain(list), fault('invalid', /is for s390x, and this node is/))
})

test(`an image list gives this machine its own part${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const mine = await registry.push('lib/many:mine', { env: { MINE: 'yes' } })
  const other = await registry.push('lib/many:other', { architecture: 's390x' })
  const parts = [
    { reference: other, architecture: 's390x' },
    { reference: mine, architecture },
  ]
  const { image } = await obtain(await registry.pushIndex('lib/many:1', parts))
  assert.ok(image.env.includes('MINE=yes'))
})

test(`ten tasks that want an image at once share one pull${why}`, { skip }, async (t) => {
  const { registry, obtain, said } = await world(t)
  const name = await registry.push('lib/popular:1')
  const all = await Promise.all(Array.from({ length: 10 }, () => obtain(name)))
  assert.equal(new Set(all.map(({ image }) => image.rootfs)).size, 1)
  const blobs = registry.requests.filter((path) => path.includes('/manifests/1'))
  assert.ok(blobs.length <= 4, blobs.join(' '))
  assert.equal(said.filter((line) => line === `pulling ${name}`).length, 10)
})

test(`one of two who wait may give up without hurting the other${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const name = await registry.push('lib/shared:1')
  const impatient = new AbortController()
  const one = obtain(name, { signal: impatient.signal })
  const other = obtain(name)
  impatient.abort(new Error('enough'))
  await assert.rejects(one, /enough/)
  assert.ok((await other).image)
})

test(`a pull that was broken off leaves no half image, and the next one succeeds${why}`, { skip }, async (t) => {
  const { registry, obtain, store } = await world(t)
  const name = await registry.push('lib/broken:1')
  const abort = new AbortController()
  const pull = obtain(name, { signal: abort.signal, progress: () => abort.abort(new Error('cut')) })
  await assert.rejects(pull, /cut/)
  assert.deepEqual(await store.list(), [])
  assert.ok((await obtain(name)).image)
})

test(`layers that are here already are not fetched again for another image${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const one = await registry.push('lib/base:1')
  const { image } = await obtain(one)
  const layer = image.blobs.at(-1)?.digest ?? 'none'
  const two = await registry.push('lib/base:2', { env: { MORE: 'yes' } })
  const before = registry.requests.length
  const next = await obtain(two)
  assert.notEqual(next.image.digest, image.digest)
  assert.equal(next.image.blobs.at(-1)?.digest, layer)
  const asked = registry.requests.slice(before)
  assert.ok(asked.some((path) => path.includes('/blobs/')))
  assert.ok(!asked.some((path) => path.includes(`/blobs/${layer}`)), asked.join(' '))
})

test(`"always" sees a tag that was moved, "missing" does not ask${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const name = await registry.push('lib/moving:1', { env: { V: '1' } })
  const first = await obtain(name)
  await registry.push('lib/moving:1', { env: { V: '2' } })
  assert.equal((await obtain(name)).image.digest, first.image.digest)
  const moved = await obtain(name, { pull: 'always' })
  assert.ok(moved.image.env.includes('V=2'))
  assert.equal((await obtain(name)).image.digest, moved.image.digest)
})

test(`an image is found again by its digest, even when its tag has moved on${why}`, { skip }, async (t) => {
  const { registry, obtain } = await world(t)
  const name = await registry.push('lib/pinned:1', { env: { V: '1' } })
  const { image } = await obtain(name)
  await registry.push('lib/pinned:1', { env: { V: '2' } })
  const pinned = await obtain(`${registry.host}/lib/pinned@${image.digest}`, { pull: 'always' })
  assert.ok(pinned.image.env.includes('V=1'))
})

test(`eviction takes the least recently used first, and never what is in use${why}`, { skip }, async (t) => {
  const { registry, obtain, store } = await world(t)
  const images = []
  for (const number of ['1', '2', '3']) {
    const { image, release } = await obtain(await registry.push(`lib/old:${number}`, { env: { NUMBER: number } }))
    images.push({ image, release })
  }
  const [one, two, three] = images
  assert.ok(one && two && three)
  one.release()
  two.release()
  const inUse = new Set([two.image.digest])
  assert.deepEqual(await store.evict({ budgetBytes: 1 << 30, inUse }), [])
  assert.deepEqual(await store.evict({ budgetBytes: 0, inUse }), [one.image.digest])
  assert.ok(existsSync(two.image.rootfs) && existsSync(three.image.rootfs) && !existsSync(one.image.rootfs))
  three.release()
  assert.deepEqual(await store.evict({ budgetBytes: 0, inUse: new Set() }), [two.image.digest, three.image.digest])
  assert.ok((await obtain(`${registry.host}/lib/old:1`)).image)
})

test(`a store opened again knows its images and clears away half-done work${why}`, { skip }, async (t) => {
  const { registry, obtain, directory } = await world(t)
  const name = await registry.push('lib/kept:1')
  const { image } = await obtain(name)
  const again = new ImageStore({ directory, clock: systemClock, architecture })
  const options = { credentials: undefined, signal, progress: () => {} }
  assert.equal((await again.obtain(name, { pull: 'never', ...options })).image.digest, image.digest)
  assert.deepEqual(
    (await again.list()).map(({ names }) => names),
    [[name]],
  )
})
