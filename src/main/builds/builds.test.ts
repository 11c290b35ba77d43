import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { s3Credentials, startS3 } from '../../../test/fixtures/s3.ts'
import { startBlockServer } from '../../blocks/server/start.ts'
import { fresh, openTestStore, readDisk, storeBuild, testBuildId } from '../../blocks/testing.ts'
import { seededRandom } from '../../kit/random.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import { firstContent, secondContent, testBuilds } from './testing.ts'

const signal = AbortSignal.timeout(120_000)

test('the builds of a store are listed with the names that lead to them', async () => {
  await using at = await testBuilds()
  const { code, out } = await at.shell.run('build', 'list', '--store', at.store)
  assert.equal(code, 0)
  assert.match(out, new RegExp(`${at.second} +template +disk .*${at.first}.*template/second`))
  const { out: ids } = await at.shell.run('build', 'list', '--store', `file:${at.store}`, '-o', 'name')
  assert.deepEqual(ids.trim().split('\n').sort(), [at.first, at.second].sort())
})

test('a build is inspected while its store is open elsewhere, by a beginning of its id or a name', async () => {
  await using at = await testBuilds()
  await using _open = await openTestStore(at.store)
  const byName = await at.shell.run('build', 'inspect', 'template/second', '--store', at.store, '-o', 'json')
  const { manifest, images } = JSON.parse(byName.out)
  assert.equal(manifest.id, at.second)
  assert.equal(images[0].zeroChunks, 40)
  assert.deepEqual(images[0].sharedWithParent, { chunks: 21, bytes: 21 * 65536 })
  assert.equal(images[0].runs, undefined, 'only with --map')
  const drawn = await at.shell.run('build', 'inspect', at.second.slice(0, 6), '--store', at.store, '--map')
  assert.match(drawn.out, /\n {2}#{10}\.{10}#\.{29}#{10}\.#{3}\n/)
  assert.match(drawn.out, /data {2}at 0 B, 640 KiB/)
})

test('bytes of an image are printed', async () => {
  await using at = await testBuilds()
  const args = ['build', 'inspect', at.first, '--store', at.store, '--range', '64KiB:64']
  const { out } = await at.shell.run(...args)
  const bytes = firstContent().subarray(65536, 65536 + 64)
  const [first = ''] = out.split('\n')
  assert.ok(
    first.startsWith(
      `00010000  ${bytes
        .subarray(0, 8)
        .toString('hex')
        .replace(/..(?=.)/g, '$& ')}  `,
    ),
  )
  assert.match(out, /\n00010040\n$/)
  const { base64 } = JSON.parse((await at.shell.run(...args, '-o', 'json')).out)
  assert.ok(Buffer.from(base64, 'base64').equals(bytes))
  const memory = await at.shell.run(...args, '--image', 'memory')
  assert.equal(memory.code, 3)
  assert.match(memory.err, /has no memory: it is a build of a disk only/)
})

test('two builds are compared', async () => {
  await using at = await testBuilds()
  const args = ['build', 'diff', at.first, at.second, '--store', at.store]
  const { images, shared } = JSON.parse((await at.shell.run(...args, '-o', 'json')).out)
  assert.deepEqual(images[0].chunks, { same: 21, changed: 2, added: 1, cleared: 1, zero: 39 })
  assert.deepEqual([shared.both.chunks, shared.first.chunks, shared.second.chunks], [21, 3, 3])
  const { out } = await at.shell.run(...args, '--draw')
  assert.match(out, /\n {2}##={8}\.{10}\+\.{29}={10}-===\n/)
})

test('a build is copied to a bucket and back, and only what is missing', async () => {
  await using at = await testBuilds()
  await using s3 = await startS3()
  Object.assign(process.env, s3Credentials)
  const bucket = `s3://${s3.bucket}/builds?endpoint=${s3.endpoint}`
  const copy = async (build: string, from: string, to: string) => {
    const { code, out, err } = await at.shell.run('build', 'copy', build, '--from', from, '--to', to, '-o', 'json')
    assert.equal(code, 0, err)
    return JSON.parse(out)
  }
  assert.equal((await copy(at.first, at.store, bucket)).presentChunks, 0)
  const second = await copy(at.second, at.store, bucket)
  assert.equal(second.chunks - second.presentChunks, 4, 'three chunks and a page of the map')
  assert.ok(second.presentBytes > 20 * 30_000)
  assert.equal((await copy(at.second, at.store, bucket)).copiedBytes, 0)
  const verified = await at.shell.run('build', 'verify', '--all', '--store', bucket)
  assert.equal(verified.code, 0, verified.out)
  const other = join(at.path, 'other')
  await copy(at.second.slice(0, 8), bucket, other)
  await using store = await openTestStore(other)
  assert.ok((await readDisk(store, at.second)).equals(secondContent()))
  assert.equal(await store.reference(`build/${at.second}`), at.second)
})

test('a build is copied to an agent that was never asked for a sandbox, and to no machine without an agent', async () => {
  await using at = await testBuilds()
  const { agentData } = at.shell.cli.home
  const copy = ['build', 'copy', at.second, '--from', at.store]
  const without = await at.shell.run(...copy)
  assert.equal(without.code, 3)
  assert.match(without.err, /this machine has no builds/)
  await mkdir(agentData, { recursive: true })
  const copied = await at.shell.run(...copy)
  assert.equal(copied.code, 0, copied.err)
  assert.match(copied.err, new RegExp(`"tutti build import ${at.second}" lets sandboxes be made of it`))
  const directory = join(agentData, 'sandboxes', 'blocks', 'content')
  assert.equal((await stat(directory)).mode & 0o077, 0)
  await using store = await openTestStore(directory)
  assert.equal(await store.reference(`build/${at.second}`), at.second)
})

test('a build is copied into the store of this machine while its block server runs, and can be used there', async () => {
  await using at = await testBuilds()
  const directory = join(at.shell.cli.home.agentData, 'sandboxes', 'blocks')
  const server = await startBlockServer({ directory, clock: systemClock, signal })
  try {
    const copied = await at.shell.run('build', 'copy', at.second, '--from', at.store, '--reference', 'mine')
    assert.equal(copied.code, 0, copied.err)
    assert.equal((await server.ask('reference', { name: 'mine' }, { signal })).build, at.second)
    const disk = await server.ask('openDisk', { name: 'a', from: { build: at.second } }, { signal })
    assert.equal(disk.size, 64 * 65536)
    await server.ask('closeDisk', { name: 'a' }, { signal })
    const listed = await at.shell.run('build', 'list', '--local', '-o', 'name')
    assert.equal(listed.out.trim(), at.second)
    await server.ask('deleteReference', { name: 'mine' }, { signal })
    const gone = await at.shell.run('build', 'gc', '--grace', '0s')
    assert.equal(gone.code, 0, gone.err)
    const { out } = await at.shell.run('build', 'gc', '--grace', '0s', '-o', 'json')
    assert.deepEqual(JSON.parse(out).removed.builds, [at.second])
    await assert.rejects(server.ask('manifest', { build: at.second }, { signal }), { code: 'not_found' })
  } finally {
    await server.ask('stop', {}, { signal })
    await server[Symbol.asyncDispose]()
  }
})

test('what no name leads to waits for its time and goes, and a dry run changes nothing', async () => {
  await using at = await testBuilds()
  {
    await using store = await openTestStore(at.store)
    await storeBuild(store, testBuildId('third'), Buffer.alloc(65536, 'third'))
  }
  const third = testBuildId('third')
  const dry = await at.shell.run('build', 'gc', '--store', at.store, '--dry-run')
  assert.match(dry.out, new RegExp(`${third} +waiting .*no name leads to it; may go from`))
  assert.match(dry.out, new RegExp(`${at.first} +kept .*named template/first`))
  assert.deepEqual(await readdir(join(at.store, 'gc')).catch(() => []), [])
  await at.shell.run('build', 'gc', '--store', at.store)
  const soon = await at.shell.run('build', 'gc', '--store', at.store, '-o', 'json')
  assert.deepEqual(JSON.parse(soon.out).removed.builds, [], 'a day has not passed')
  const now = await at.shell.run('build', 'gc', '--store', at.store, '--grace', '0s')
  assert.match(now.out, new RegExp(`${third} +removed`))
  assert.match(now.out, /freed: 1 builds? and [12] packs?/)
  assert.equal((await at.shell.run('build', 'verify', '--all', '--store', at.store)).code, 0)
})

test('packs of which little is needed are rewritten when that is asked for', async () => {
  await using at = await testBuilds()
  const large = fresh(seededRandom('large'), 100 * 65_536)
  {
    await using store = await openTestStore(at.store)
    const parent = await storeBuild(store, testBuildId('large'), large, { chunkBytes: 65_536 })
    const options = { chunkBytes: 65_536, parent, reference: 'small' }
    await storeBuild(store, testBuildId('small'), large.subarray(0, 5 * 65_536), options)
  }
  const gc = (...args: string[]) => at.shell.run('build', 'gc', '--store', at.store, '--grace', '0s', ...args)
  for (let round = 0; round < 2; round++) assert.doesNotMatch((await gc()).out, /repack/)
  const dry = await gc('--repack', '--dry-run')
  assert.match(
    dry.out,
    /\nwould repack: 1 pack, 3\.\d MiB, of which 1\d\d\.\d KiB is needed; a collection from .* frees the old ones\n/,
  )
  assert.match((await gc('--repack')).out, /\nrepacked: 1 pack, /)
  assert.match((await gc('--max-unused', '2%')).out, /freed: 0 builds and 1 pack, 3.*\n(.*\n)+repacked: nothing, /)
  assert.equal((await at.shell.run('build', 'verify', '--all', '--store', at.store)).code, 0)
  await using server = await startBlockServer({ directory: join(at.path, 'blocks'), clock: systemClock, signal })
  try {
    const store = join(at.path, 'blocks/content')
    const asked = await at.shell.run('build', 'gc', '--store', store, '--repack', '-o', 'json')
    assert.deepEqual(JSON.parse(asked.out).repacked.packs, [])
  } finally {
    await server.ask('stop', {}, { signal })
  }
  assert.match((await gc('--max-unused', 'much')).err, /--max-unused needs a percentage such as 5%, not "much"/)
})

test('a store that another process has open is not collected from outside', async () => {
  await using at = await testBuilds()
  await using _open = await openTestStore(at.store)
  const { code, err } = await at.shell.run('build', 'gc', '--store', at.store)
  assert.equal(code, 6)
  assert.match(err, /is in use by another process/)
})

test('what is corrupt or missing is named, and the exit code is 1', async () => {
  await using at = await testBuilds()
  const packs = await readdir(join(at.store, 'packs'))
  const sizes = await Promise.all(packs.map(async (name) => (await stat(join(at.store, 'packs', name))).size))
  const largest = packs[sizes.indexOf(Math.max(...sizes))] ?? ''
  const file = join(at.store, 'packs', largest)
  const bytes = await readFile(file)
  bytes[5000] = (bytes[5000] ?? 0) ^ 1
  await writeFile(file, bytes)
  const corrupt = await at.shell.run('build', 'verify', at.first, '--store', at.store)
  assert.equal(corrupt.code, 1)
  assert.match(corrupt.out, new RegExp(`chunk [0-9a-f]{64} is corrupt in pack ${largest}`))
  const exported = await at.shell.run('build', 'export', at.first, '--store', at.store, '--raw', join(at.path, 'raw'))
  assert.equal(exported.code, 6)
  assert.match(exported.err, /chunk [0-9a-f]{64} of build .* is corrupt in pack/)
  assert.deepEqual((await readdir(at.path)).sort(), ['store'])
  await rm(file)
  const missing = await at.shell.run('build', 'verify', '--all', '--store', at.store, '-o', 'json')
  assert.equal(missing.code, 1)
  assert.ok(JSON.parse(missing.out).problems.some(({ pack }: { pack?: string }) => pack === largest))
})

test('a disk is exported as a raw file with holes', async () => {
  await using at = await testBuilds()
  const file = join(at.path, 'raw')
  const { code, out } = await at.shell.run('build', 'export', at.first, '--store', at.store, '--raw', file)
  assert.equal(code, 0)
  assert.match(out, /4 MiB, 1.5 MiB of it data/)
  assert.ok((await readFile(file)).equals(firstContent()))
  assert.ok((await stat(file)).blocks * 512 < 2 * 2 ** 20)
})

test('reads are measured', async () => {
  await using at = await testBuilds()
  const { out } = await at.shell.run('build', 'bench', at.first, '--store', at.store, '--reads', '20', '-o', 'json')
  const { figures } = JSON.parse(out)
  assert.deepEqual(
    figures.map(({ pattern, reads }: { pattern: string; reads: number }) => [pattern, reads]),
    [
      ['sequential', 20],
      ['random', 20],
      ['parallel', 20],
    ],
  )
  assert.ok(figures.every(({ p50, p99 }: { p50: number; p99: number }) => p50 > 0 && p99 >= p50))
})

test('a template with a tag is found through the control plane', async () => {
  const build = { id: testBuildId('second') }
  const answers = { 'GET /v1/builds/web%3Av1': () => ({ build, index: 1 }) }
  await using at = await testBuilds({ answers })
  const { out } = await at.shell.run('build', 'inspect', 'web:v1', '--store', at.store, '-o', 'name')
  assert.equal(out.trim(), at.second)
})

test('mistakes are one sentence that says what would help', async () => {
  const unreachable = () => {
    throw new Fault('unavailable', 'nobody answers')
  }
  await using at = await testBuilds({ answers: { 'GET /v1/builds/x': unreachable } })
  const near = `${at.first.slice(0, -1)}${at.first.endsWith('0') ? '1' : '0'}`
  const cases: [string[], number, RegExp][] = [
    [
      ['inspect', near, '--store', at.store],
      3,
      new RegExp(`there is no build "${near}" in file:.*; did you mean "${at.first}"\\?`),
    ],
    [['inspect', 'x', '--store', at.store], 3, /there is no build "x" in file:.*; it has 2 builds/],
    [['inspect', '', '--store', at.store], 2, /2 builds in file:.* begin with ""/],
    [['inspect', at.first], 3, /this machine has no builds: .*; name another store with --store/],
    [['inspect', at.first, '--store', join(at.path, 'nowhere')], 3, /there is no store of builds at .*nowhere/],
    [['inspect', at.first, '--store', 'ftp://x/y'], 2, /nothing is known of ftp:/],
    [['inspect', at.first, '--store', at.store, '--range', '12'], 2, /--range needs OFFSET:SIZE/],
    [['copy', at.first, '--from', at.store, '--to', at.store], 2, /both stores are file:/],
    [['copy', at.first], 2, /say where to copy it with --to/],
    [['verify', '--store', at.store], 2, /name builds, or take all of the store with --all/],
    [['export', at.first, '--store', at.store], 2, /say what to write/],
    [['export', at.first, '--store', at.store, '--oci', '/no/such/x'], 2, /there is no directory \/no\/such/],
    [
      ['export', at.first, '--store', at.store, '--oci', join(at.path, 'x'), '--tag', 'A b'],
      2,
      /cannot be the name of an image/,
    ],
    [['mount', at.first, '/no/such/dir', '--store', at.store], 2, /there is no directory \/no\/such/],
    [['unmount', at.path], 3, /no build is mounted at/],
    [['bench', at.first, '--store', at.store, '--reads', '0'], 2, /--reads needs at least 1/],
    [['gc', '--store', at.store, '--grace', 'soon'], 2, /--grace needs a duration/],
    [['list', '--store', at.store, '--template', 'x'], 2, /--template is about what the control plane knows/],
  ]
  for (const [args, code, sentence] of cases) {
    const said = await at.shell.run('build', ...args)
    assert.match(said.err, sentence, args.join(' '))
    assert.equal(said.code, code, args.join(' '))
    assert.equal(said.err.trim().split('\n').length, 1, said.err)
  }
})
