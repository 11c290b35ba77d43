import assert from 'node:assert/strict'
import { mkdir } from 'node:fs/promises'
import { after, before, test } from 'node:test'
import { openObjects } from '../../src/blocks/objects/open.ts'
import { collect } from '../../src/blocks/operations/collect.ts'
import { copyBuild } from '../../src/blocks/operations/copy.ts'
import { listBuilds } from '../../src/blocks/operations/list.ts'
import { readBuilds } from '../../src/blocks/operations/source.ts'
import { verify } from '../../src/blocks/operations/verify.ts'
import {
  fresh,
  openTestStore,
  readDisk,
  storeBuild,
  temporaryDirectory,
  testBuildId,
} from '../../src/blocks/testing.ts'
import { systemClock } from '../../src/kit/system-clock.ts'
import { systemRandom } from '../../src/kit/system-random.ts'
import { type GcsServer, startGcs } from '../fixtures/gcs.ts'
import { type S3Server, s3Credentials, startS3 } from '../fixtures/s3.ts'
import { rejectsWith, testObjectStore } from './object-store.ts'

const random = systemRandom
let s3: S3Server
let gcs: GcsServer
let prefixes = 0

before(async () => {
  Object.assign(process.env, s3Credentials)
  s3 = await startS3()
  gcs = await startGcs({ pageSize: 10 })
})
after(async () => {
  await s3[Symbol.asyncDispose]()
  await gcs[Symbol.asyncDispose]()
})

const noop = { [Symbol.asyncDispose]: async () => {} }

testObjectStore('file', async () => {
  const directory = await temporaryDirectory()
  const objects = await openObjects(`file:${directory.path}`, { random })
  return { objects, [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose]() }
})
testObjectStore(
  's3',
  async () => ({
    objects: await openObjects(`s3://${s3.bucket}/p${++prefixes}?endpoint=${s3.endpoint}`, { random }),
    ...noop,
  }),
  { replacing: 'the server of the test, unlike S3, writes into the object while it is read' },
)
testObjectStore('gs', async () => ({
  objects: await openObjects(`gs://${gcs.bucket}/p${++prefixes}?endpoint=${gcs.endpoint}`, { random }),
  ...noop,
}))

test('a build in a bucket is copied there, read through, verified and collected', async () => {
  for (const [scheme, { bucket, endpoint }] of [
    ['s3', s3],
    ['gs', gcs],
  ] as const) {
    await using here = await temporaryDirectory()
    await using elsewhere = await temporaryDirectory()
    const objects = await openObjects(`${scheme}://${bucket}/builds-${scheme}?endpoint=${endpoint}`, { random })
    const content = fresh(random, 3_000_000)
    const [id, other] = [testBuildId('bucket'), testBuildId('other')]
    {
      await using store = await openTestStore(here.path)
      const parent = await storeBuild(store, id, content)
      await storeBuild(store, other, content.subarray(0, 2_000_000), { parent })
      for (const build of [id, other])
        await copyBuild(readBuilds(store.objects), objects, build, { reference: `template/${build}` })
    }
    await using store = await openTestStore(elsewhere.path, { upstream: objects })
    assert.equal(await store.reference(`template/${id}`), id)
    assert.ok((await readDisk(store, id)).equals(content))
    assert.deepEqual((await verify(readBuilds(objects))).problems, [])
    await objects.delete(`refs/template/${id}.json`)
    for (let round = 0; round < 2; round++) await collect(objects, { clock: systemClock, graceMs: -60_000 })
    assert.deepEqual(
      (await listBuilds(objects)).builds.map((build) => build.id),
      [other],
    )
    assert.deepEqual((await verify(readBuilds(objects))).problems, [])
  }
})

test('a server that is not there is unavailable', async () => {
  for (const scheme of ['s3', 'gs']) {
    const objects = await openObjects(`${scheme}://blocks/x?endpoint=http://127.0.0.1:1`, { random })
    await rejectsWith('unavailable', objects.get('packs/a'))
    await rejectsWith('unavailable', objects.put('packs/a', Buffer.alloc(1), { size: 1 }))
  }
})

test('who is not known is denied, and the sentence does not hold the secret', async () => {
  Object.assign(process.env, { AWS_ACCESS_KEY_ID: 'STRANGER', AWS_SECRET_ACCESS_KEY: 'wrong-secret' })
  try {
    const objects = await openObjects(`s3://${s3.bucket}/x?endpoint=${s3.endpoint}`, { random })
    const fault = await rejectsWith('denied', objects.get('packs/a'))
    assert.doesNotMatch(fault.message, /wrong-secret/)
  } finally {
    Object.assign(process.env, s3Credentials)
  }
})

test('a bucket that does not exist is a sentence', async () => {
  for (const [scheme, { endpoint }] of [
    ['s3', s3],
    ['gs', gcs],
  ] as const) {
    const objects = await openObjects(`${scheme}://nowhere?endpoint=${endpoint}`, { random })
    await rejectsWith('not_found', objects.put('packs/a', Buffer.alloc(1), { size: 1 }))
  }
})

test('a file in the place of the directory is a sentence', async () => {
  await using directory = await temporaryDirectory()
  await mkdir(`${directory.path}/packs/a`, { recursive: true })
  const objects = await openObjects(`file:${directory.path}`, { random })
  await rejectsWith('unavailable', objects.get('packs/a'))
})

test('URLs that name no object store are refused with what would do', async () => {
  for (const url of [
    'nonsense',
    'file:relative',
    'file:///',
    'ftp://host/x',
    's3://',
    's3://bucket?color=red',
    's3://bucket?endpoint=localhost',
    's3://key:secret@bucket',
  ]) {
    const fault = await rejectsWith('invalid', openObjects(url, { random }))
    assert.match(fault.message, /write file:\/path, s3:\/\/bucket\/prefix or gs:\/\/bucket\/prefix$/)
    assert.doesNotMatch(fault.message, /secret/)
  }
})
