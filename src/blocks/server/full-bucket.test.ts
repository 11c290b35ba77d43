import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { type FullBucket, openFullBucket, type Refusal } from '../../../test/fixtures/full-bucket.ts'
import { until } from '../../../test/fixtures/machines.ts'
import { type S3Server, s3Credentials, startS3 } from '../../../test/fixtures/s3.ts'
import { mountSmallDisk } from '../../../test/fixtures/small-disk.ts'
import { type Log, silentLog } from '../../kit/log.ts'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'

import type { Fault } from '../../model/fault.ts'
import { fileObjects } from '../objects/file.ts'
import { openObjects } from '../objects/open.ts'
import { retrying } from '../objects/retry.ts'
import type { ObjectStore } from '../objects.ts'
import type { LocalContentStore } from '../open.ts'
import { copyBuild } from '../operations/copy.ts'
import { listBuilds } from '../operations/list.ts'
import { readBuilds } from '../operations/source.ts'
import { verify } from '../operations/verify.ts'
import { fresh, openTestStore, readDisk, storeBuild, temporaryDirectory, testBuildId } from '../testing.ts'
import { openTestServer, storeRequest } from './testing.ts'
import { Uploads } from './uploads.ts'

/** What becomes of builds when the store that they are brought to takes no more. */

const random = seededRandom('full bucket')
const clock = systemClock
const [small, large] = [testBuildId('small'), testBuildId('large')]
const smallBytes = fresh(seededRandom('small'), 300_000)
const parentBytes = fresh(seededRandom('parent'), 1_000_000)
const largeBytes = Buffer.concat([parentBytes, fresh(seededRandom('large'), 2_000_000)])
let s3: S3Server
let full: FullBucket
let prefixes = 0

before(async () => {
  Object.assign(process.env, s3Credentials)
  s3 = await startS3()
  full = await openFullBucket(s3.endpoint)
})
after(async () => {
  await full?.[Symbol.asyncDispose]()
  await s3?.[Symbol.asyncDispose]()
})

function bucket(): Promise<ObjectStore> {
  return openObjects(`s3://${s3.bucket}/p${++prefixes}?endpoint=${full.endpoint}`, { random })
}

async function refusalOf(work: Promise<unknown>): Promise<Fault> {
  const error = await work.then(
    () => assert.fail('it was done'),
    (thrown: unknown) => thrown as Fault,
  )
  assert.doesNotMatch(error.message, /\n|\. |\.$/)
  return error
}

/** `small`, and `large` in several packs, so that a part of it can be there already. */
async function storeBoth(store: LocalContentStore): Promise<void> {
  await storeBuild(store, small, smallBytes, { reference: 'small' })
  const parent = await storeBuild(store, testBuildId('parent'), parentBytes)
  await storeBuild(store, large, largeBytes, { parent, reference: 'large' })
}

/** Nothing is listed but `small`, which is whole. */
async function assertUntouched(objects: ObjectStore): Promise<void> {
  const { builds, problems } = await listBuilds(objects)
  assert.deepEqual([builds.map(({ id }) => id), problems], [[small], []])
  assert.deepEqual((await verify(readBuilds(objects))).problems, [])
}

const refusals: [string, Refusal, RegExp][] = [
  ['no words', { status: 507 }, /takes no more \(the server answered 507\); free some of it, or raise its quota/],
  [
    'a quota',
    { status: 403, code: 'QuotaExceeded', message: 'Over quota.' },
    /takes no more \(Over quota\); free some/,
  ],
  [
    'a limit of length',
    { status: 400, code: 'EntityTooLarge', message: 'Your proposed upload is too large.' },
    /too large; let the server take objects of up to 64 MiB/,
  ],
  [
    'too many requests without end',
    { status: 503, code: 'SlowDown', message: 'Please reduce your request rate.' },
    /Please reduce your request rate; the server is asked too much, so try again later$/,
  ],
]

test('a copy that a bucket refuses is one sentence, lists nothing new, and goes on where it stopped', async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(directory.path)
  await storeBoth(store)
  const from = readBuilds(store.objects)
  const { packs } = await store.manifest(large)
  const sizes = await Promise.all(packs.map(async (name) => (await stat(join(store.directory, 'packs', name))).size))
  const all = sizes.reduce((sum, size) => sum + size, 0)
  assert.ok(packs.length > 2)
  for (const [n, [words, refusal, expected]] of refusals.entries()) {
    const objects = retrying(await bucket(), { clock, random })
    await copyBuild(from, objects, small, { reference: 'small' })
    // Before anything, after a part, and before the manifest.
    const part = Math.max(...sizes)
    for (const afterBytes of n === 0 ? [0, part, all - part] : [part]) {
      full.fill(refusal, { afterBytes })
      const { message } = await refusalOf(copyBuild(from, objects, large, { reference: 'large' }))
      assert.match(message, /^cannot write (packs|builds)\/[0-9a-z.]+ in s3:\/\/blocks\/p\d+: /, words)
      assert.match(message, expected, words)
      full.makeRoom()
      await assertUntouched(objects)
    }
    const { copiedBytes } = await copyBuild(from, objects, large, { reference: 'large' })
    assert.ok(copiedBytes < all, 'what was there was sent again')
    assert.deepEqual((await verify(readBuilds(objects))).problems, [])
  }
})

test('a copy to a directory on a full disk is one sentence, leaves nothing half, and goes on once there is room', {
  skip: process.getuid?.() !== 0 && 'needs root to mount a small disk',
}, async () => {
  await using directory = await temporaryDirectory()
  await using store = await openTestStore(join(directory.path, 'from'))
  await storeBoth(store)
  const from = readBuilds(store.objects)
  for (const bytes of [0, 300_000, 1_300_000]) {
    await using disk = await mountSmallDisk(join(directory.path, `to-${bytes}`))
    const objects = fileObjects({ directory: disk.directory, random })
    await copyBuild(from, objects, small, { reference: 'small' })
    await disk.leave(bytes)
    const { code, message } = await refusalOf(copyBuild(from, objects, large, { reference: 'large' }))
    assert.equal(code, 'exhausted')
    assert.match(message, /^cannot write packs\/\w+ in file:\S+: the disk is full; free some of it and try again$/)
    assert.deepEqual(await readdir(join(disk.directory, 'tmp')), [])
    await assertUntouched(objects)
    await disk.grow()
    await copyBuild(from, objects, large, { reference: 'large' })
    await using copied = await openTestStore(disk.directory)
    assert.ok((await readDisk(copied, large)).equals(largeBytes))
  }
})

test('a pause is kept here while the bucket is full, others pass it, and it is brought there once there is room', async () => {
  const objects = await bucket()
  await using directory = await temporaryDirectory()
  const said: string[] = []
  const log: Log = { ...silentLog, warn: (_fields: unknown, text?: string) => void said.push(String(text)) }
  await using content = await openTestStore(join(directory.path, 'content'))
  const [paused, other, broken] = [testBuildId('paused'), testBuildId('second'), testBuildId('broken')]
  const uploadsOf = () =>
    new Uploads({
      ...{ directory: join(directory.path, 'uploads'), local: content.objects, upstream: objects },
      ...{ clock, random, log },
    })
  const isThere = async (...builds: string[]) => {
    const listed = (await listBuilds(objects)).builds.map(({ id }) => id as string)
    return builds.every((build) => listed.includes(build))
  }
  full.fill({ status: 507 })
  {
    await using uploads = uploadsOf()
    await uploads.resume()
    await using server = await openTestServer({ uploads, content })
    const disk = await server.ask('openDisk', { name: 'disk', from: { size: 1 << 20 } })
    assert.ok(disk.socket)
    const { epoch } = await server.ask('cutDisk', { name: 'disk' })
    await server.ask('store', storeRequest(paused, { name: 'disk', epoch }))
    assert.deepEqual((await server.ask('list', {})).uploads, [paused])
    await until(async () => said.length > 0, 'it was refused')
    assert.match(
      said[0] ?? '',
      /^build \w+ could not be brought to the store: cannot write \S+ in s3:\S+: the store takes no more \(the/,
    )
    assert.deepEqual(await listBuilds(objects), { builds: [], problems: [] })
    assert.equal((await server.ask('reference', { name: `test/${paused}` })).build, paused)
    // A pack that is missing here keeps nobody else from being brought there.
    const { packs } = await storeBuild(content, broken, fresh(random, 100_000))
    for (const name of packs) await content.objects.delete(`packs/${name}`)
    uploads.add(broken)
    await storeBuild(content, other, smallBytes)
    uploads.add(other)
    full.makeRoom()
    await until(() => isThere(paused, other), 'both are there')
    assert.deepEqual(uploads.list(), [broken])
    full.fill({ status: 403, code: 'QuotaExceeded' })
    await storeBuild(content, small, smallBytes)
    uploads.add(small)
  }
  // The next server goes on with what the last one could not bring.
  full.makeRoom()
  await using uploads = uploadsOf()
  await uploads.resume()
  await until(() => isThere(small), 'it is there')
  assert.deepEqual((await verify(readBuilds(objects))).problems, [])
})
