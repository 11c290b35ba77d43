import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { compileMapper, type Mapper, startMapper } from '../../../test/fixtures/mapper.ts'
import { seededRandom } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import { findMemoryLayers } from '../../vmm/qemu/memory-layers.ts'
import { capture } from '../memory/capture.ts'
import { readPages } from '../memory/pages-file.ts'
import { fresh, readImage, storeBuild, temporaryDirectory, testBuildId } from '../testing.ts'
import { openTestServer, storeRequest, type TestServer, without } from './testing.ts'

const size = 8 << 20
const pageBytes = 4096
const skip = process.platform !== 'linux' ? 'needs Linux' : without('cc')

let scratch: Awaited<ReturnType<typeof temporaryDirectory>>
let binary: string
before(async () => {
  if (skip) return
  scratch = await temporaryDirectory()
  binary = compileMapper(scratch.path, size)
})
after(async () => {
  await scratch?.[Symbol.asyncDispose]()
})

function map(path: string, how: 'private' | 'shared', env: Record<string, string> = {}): Promise<Mapper> {
  return startMapper(binary, path, how, env)
}

/** A build with memory, made as a machine that boots makes it. */
async function bootedBuild(server: TestServer, build: BuildId, pages: ReadonlyMap<number, number>): Promise<Buffer> {
  const { path } = await server.ask('newMemory', { name: 'boot', size })
  await using machine = await map(path, 'shared')
  const expected = Buffer.alloc(size)
  for (const [page, value] of pages) {
    await machine.write(page, value)
    expected.fill(value, page * pageBytes, (page + 1) * pageBytes)
  }
  const capture = { capture: 'boot', pid: machine.pid, path, build: null, size }
  assert.equal((await server.ask('captureMemory', capture)).bytes, pages.size * pageBytes)
  await storeWithMemory(server, build, null, 'boot')
  await server.ask('closeMemory', { name: 'boot' })
  return expected
}

async function storeWithMemory(server: TestServer, build: BuildId, parent: BuildId | null, capture: string) {
  const devices = join(scratch.path, 'devices')
  writeFileSync(devices, 'state of devices')
  await server.ask('openDisk', { name: 'disk', from: { size: 1 << 20 } })
  const { epoch } = await server.ask('cutDisk', { name: 'disk' })
  const snapshot = { capture, devices, compat: 'c', guestAgent: '1', channelToken: 't' }
  return server.ask('store', { ...storeRequest(build, { name: 'disk', epoch }, parent), snapshot })
}

async function readMemory({ content }: TestServer, build: BuildId): Promise<Buffer> {
  const { snapshot, packs } = await content.manifest(build)
  assert.ok(snapshot)
  return readImage(await content.open(snapshot.memory, { packs }))
}

const template = testBuildId('template')
const paused = testBuildId('paused')
const templatePages = new Map([0, 1, 5, 700, 701, 2047].map((page) => [page, (page % 200) + 1]))

test('what a machine wrote since its template is captured, stored, and put back', { skip }, async () => {
  await using server = await openTestServer()
  const expected = await bootedBuild(server, template, templatePages)
  assert.ok((await readMemory(server, template)).equals(expected))

  const { path, sealed } = await server.ask('openMemory', { build: template, holder: 'a' })
  assert.ok(sealed)
  {
    await using machine = await map(path, 'private')
    assert.equal(await machine.read(5), 6)
    for (const page of [1, 300, 2046]) {
      await machine.write(page, 99)
      expected.fill(99, page * pageBytes, (page + 1) * pageBytes)
    }
    const { chunks } = await server.ask('touched', { pid: machine.pid, path, size })
    assert.ok([0, 75, 511].every((chunk) => chunks.includes(chunk)))
    const { bytes } = await server.ask('captureMemory', { capture: 'a', pid: machine.pid, path, build: template, size })
    assert.equal(bytes, 3 * pageBytes, 'read pages are not its own')
    // Where the kernel does not tell them, they are found by looking at all: one was written as it was.
    await machine.write(700, expected[700 * pageBytes] ?? 0)
    const into = join(scratch.path, 'compared')
    capture({ ...{ pid: machine.pid, path, names: undefined, size, isPrivate: true, into }, compares: true })
    assert.deepEqual(
      readPages(into)?.runs,
      [1, 300, 2046].map((first) => ({ first, count: 1 })),
    )
    assert.ok(readFileSync(into).equals(Buffer.alloc(3 * pageBytes, 99)))
    await storeWithMemory(server, paused, template, 'a')
  }
  assert.ok((await readMemory(server, paused)).equals(expected))
  for (const forget of [false, true]) {
    if (forget) execFileSync('sh', ['-c', `rm ${server.directory}/differences/*`])
    await using machine = await map(path, 'private')
    await server.ask('applyMemory', { pid: machine.pid, path, size, base: template, build: paused })
    for (const page of [0, 1, 5, 300, 700, 2046, 2047])
      assert.equal(await machine.read(page), expected[page * pageBytes], `page ${page}`)
    await using other = await map(path, 'private')
    assert.equal(await other.read(300), 0, 'nobody else sees it')
  }
  await server.ask('devices', { build: paused, path: join(scratch.path, 'out') })
  assert.equal(readFileSync(join(scratch.path, 'out'), 'utf8'), 'state of devices')
  assert.deepEqual((await server.ask('list', {})).captures, [])
})

/** The library of this machine; undefined where there is no compiler. */
const layers = skip ? undefined : findMemoryLayers()

test('what a machine had changed is mapped over the image, and what it changes then is told from that', {
  skip: skip || (layers === undefined && 'needs native/build'),
}, async () => {
  await using server = await openTestServer()
  const expected = await bootedBuild(server, template, templatePages)
  const { path } = await server.ask('openMemory', { build: template, holder: 'a' })
  const memory = join(scratch.path, 'memory')
  const layered = () => map(path, 'private', { LD_PRELOAD: layers ?? '', TUTTI_MEMORY: memory })
  const builds = ['one', 'two', 'three', 'four', 'five'].map(testBuildId)
  // The last of them has every page of its own.
  const changes = [[1, 2, 3, 2046], [2, 300], [3, 4, 2047], Array.from({ length: 2048 }, (_, page) => page), [7]]
  let before: BuildId | undefined
  for (const [round, pages] of changes.entries()) {
    const build = builds[round] as BuildId
    if (before) await server.ask('placeDifference', { build: before, base: template, at: `${memory}.over` })
    await using machine = await layered()
    for (const page of [0, 1, 2, 3, 4, 300, 700, 2046, 2047])
      assert.equal(await machine.read(page), expected[page * pageBytes], `page ${page} in round ${round}`)
    for (const page of pages) {
      const value = ((page + round * 7) % 250) + 1
      await machine.write(page, value)
      expected.fill(value, page * pageBytes, (page + 1) * pageBytes)
    }
    const capture = { capture: 'a', pid: machine.pid, path, build: template, over: before ?? null, size }
    const { bytes } = await server.ask('captureMemory', capture)
    if (before === undefined || round < 4) assert.equal(bytes, pages.length * pageBytes, 'only what is new is copied')
    await storeWithMemory(server, build, template, 'a')
    assert.ok((await readMemory(server, build)).equals(expected), `round ${round}`)
    before = build
  }
  await server.ask('closeDisk', { name: 'disk' })
  assert.deepEqual((await server.ask('list', {})).captures, [])
})

test('a sealed memory cannot be changed by a machine that tries to', { skip }, async () => {
  await using server = await openTestServer()
  await bootedBuild(server, template, templatePages)
  const { path } = await server.ask('openMemory', { build: template, holder: 'a' })
  assert.throws(() => writeFileSync(path, 'x', { flag: 'r+' }), /EPERM/)
})

test('a machine is captured although the block server that gave it its memory is no more', { skip }, async () => {
  await using server = await openTestServer()
  await bootedBuild(server, template, templatePages)
  const { path } = await server.ask('openMemory', { build: template, holder: 'a' })
  await using machine = await map(path, 'private')
  await machine.write(9, 42)
  await server.restart()
  const { bytes } = await server.ask('captureMemory', { capture: 'a', pid: machine.pid, path, build: template, size })
  assert.equal(bytes, pageBytes)
})

test('memory that does not fit is refused before any is taken', { skip }, async () => {
  await using server = await openTestServer({ reservedMemoryBytes: 2 ** 50 })
  await assert.rejects(server.ask('newMemory', { name: 'big', size: 2 ** 30 }), {
    code: 'exhausted',
    message: /needs 1024 MiB, and this node has/,
  })
})

test('memories and files are given back', { skip }, async () => {
  await using server = await openTestServer({ keptMemoryBytes: 0 })
  await bootedBuild(server, template, templatePages)
  for (let round = 0; round < 3; round += 1) {
    await server.ask('openMemory', { build: template, holder: 'a' })
    await server.ask('releaseMemory', { build: template, holder: 'a' })
  }
  await server.ask('closeDisk', { name: 'disk' })
  assert.deepEqual(openMemfds(), [])
  const { disks, memories, newMemories } = await server.ask('list', {})
  assert.deepEqual({ disks, memories, newMemories }, { disks: [], memories: [], newMemories: [] })
  assert.deepEqual(readdirSync(join(server.directory, 'disks')), [])
})

test('a build of a disk only has no memory, and that is said', { skip }, async () => {
  await using server = await openTestServer()
  await storeBuild(server.content, template, fresh(seededRandom('d'), 65536))
  await assert.rejects(server.ask('openMemory', { build: template, holder: 'a' }), {
    code: 'invalid',
    message: /disk only/,
  })
})

function openMemfds(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`)
      return target.includes('memfd:tutti') ? [target] : []
    } catch {
      return []
    }
  })
}

const lazySkip = skip || (existsSync('/dev/fuse') ? without('qemu-storage-daemon', 'fusermount3') : 'needs /dev/fuse')

test('a lazy memory has its pages when they are touched, and leaves nothing behind', { skip: lazySkip }, async () => {
  await using server = await openTestServer({ backgroundFill: false, isElsewhere: true })
  await bootedBuild(server, template, templatePages)
  const answer = await server.ask('openMemory', { build: template, holder: 'a', lazy: true })
  assert.ok(answer.lazy)
  {
    await using machine = await map(answer.path, 'private')
    assert.equal(await machine.read(5), 6)
    await server.restart()
    assert.equal(await machine.read(701), 102, 'the next server goes on with it')
    await machine.write(3, 33)
    const capture = { capture: 'l', pid: machine.pid, path: answer.path, build: template, size }
    assert.equal((await server.ask('captureMemory', capture)).bytes, pageBytes)
    const elsewhere = { ...capture, path: '/nonexistent' }
    assert.equal((await server.ask('captureMemory', elsewhere)).bytes, pageBytes, 'it is known by its name too')
    const { chunks } = await server.ask('touched', { pid: machine.pid, path: answer.path, size })
    assert.ok(chunks.length > 0 && chunks.length < 30, `${chunks.length} chunks were touched`)
  }
  assert.throws(() => writeFileSync(answer.path, 'x', { flag: 'r+' }))
  await server.ask('releaseHolder', { holder: 'a' })
  assert.ok(!readFileSync('/proc/mounts', 'utf8').includes(server.directory))
  assert.deepEqual(readdirSync(join(server.directory, 'lazy')), [])
  while (processesAbout(server.directory).length > 0) await sleep(5)
})

test('a lazy memory arrives of itself, and the next machine is given the whole one', { skip: lazySkip }, async () => {
  await using server = await openTestServer({ isElsewhere: true })
  const expected = await bootedBuild(server, template, templatePages)
  const first = await server.ask('openMemory', { build: template, holder: 'a', lazy: true })
  assert.ok(first.lazy)
  const next = () => server.ask('openMemory', { build: template, holder: 'b', lazy: true })
  while ((await next()).lazy) await sleep(20)
  const { path, sealed } = await next()
  assert.ok(sealed && readFileSync(path).equals(expected))
  assert.ok(readFileSync(first.path).equals(expected))
  for (const holder of ['a', 'b']) await server.ask('releaseMemory', { build: template, holder })
  assert.deepEqual(readdirSync(join(server.directory, 'lazy')), [])
})

test('a build that is here is given whole, and one that is not is not taken for a base', {
  skip: lazySkip,
}, async () => {
  await using here = await openTestServer()
  await bootedBuild(here, template, templatePages)
  assert.equal((await here.ask('openMemory', { build: template, holder: 'a', lazy: true })).lazy, false)
  await using away = await openTestServer({ isElsewhere: true })
  await bootedBuild(away, template, templatePages)
  await assert.rejects(
    away.ask('openMemory', { build: template, holder: 'a', ifHere: true }),
    new Fault('not_found', `the memory of build ${template} is not on this machine`),
  )
  assert.deepEqual((await away.ask('list', {})).memories, [])
})

function processesAbout(directory: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory)
    } catch {
      return false
    }
  })
}
