import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { copyFile, cp, mkdir, open, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { footerBytes, packHead } from '../../src/blocks/pack.ts'
import type { Sandbox } from '../../src/client/sandbox.ts'
import { Fault } from '../../src/model/fault.ts'
import { tracesOf } from '../fixtures/left.ts'
import { lackingSandboxes, SandboxWorld } from '../fixtures/sandboxes.ts'
import { mountSmallDisk, type SmallDisk } from '../fixtures/small-disk.ts'

/** What becomes of sandboxes and builds when a disk is full, and when what they are made of is harmed. */
const skip = (await lackingSandboxes()) ?? false
const why = skip === false ? '' : ` (skipped: ${skip})`
const MiB = 2 ** 20
let world: SandboxWorld
let disk: SmallDisk
let base: string
let content: string

before(async () => {
  if (skip !== false) return
  world = await SandboxWorld.open({
    // Nothing is made ahead, so that every start reads what it is made of.
    env: { TUTTI_AHEAD: '0,0' },
    prepare: async (directory) => {
      disk = await mountSmallDisk(directory)
      return disk
    },
  })
  content = join(world.directory, 'blocks/content')
  const [build] = (await world.tutti.client.listBuilds()).builds
  base = build?.id ?? ''
})
after(async () => {
  if (process.env['TUTTI_SHOW']) for (const [name, text] of world.cluster.output) console.log(name, text)
  await world?.[Symbol.asyncDispose]()
})

/** What is said to whoever asked: one sentence. */
async function refusal(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  assert.ok(error, 'it was done')
  const { message } = Fault.from(error)
  assert.doesNotMatch(message, /\n/)
  return message
}

async function refused(...args: string[]): Promise<string> {
  const { code, stderr } = await world.cluster.tutti(...args)
  assert.notEqual(code, 0)
  assert.equal(stderr.trim().split('\n').length, 1, stderr)
  return stderr
}

async function listed(): Promise<string[]> {
  const { builds } = await world.tutti.client.listBuilds({ all: true })
  return builds.flatMap(({ id, status }) => (status === 'ready' || status === 'building' ? [id] : [])).sort()
}

/** Its state, in memory and on disk. */
async function state(sandbox: Sandbox): Promise<string> {
  const { code, stdout, stderr } = await sandbox.exec('sha256sum /dev/shm/state /root/state')
  assert.equal(code, 0, stderr)
  return stdout
}

async function withState(sandbox: Sandbox, size: number): Promise<string> {
  const fill = `head -c ${size} /dev/urandom > /dev/shm/state; head -c ${size} /dev/urandom > /root/state; sync`
  assert.equal((await sandbox.exec(fill)).code, 0)
  return state(sandbox)
}

test(`a pause for which the disk has no room is refused, the sandbox runs on, and can be paused later${why}`, {
  skip,
}, async () => {
  await using sandbox = await world.create()
  const before = await withState(sandbox, 24 * MiB)
  const builds = await listed()
  await disk.leave(8 * MiB)
  try {
    assert.match(await refusal(sandbox.pause()), /the disk is full; free some of it and try again$/)
    assert.equal((await sandbox.refresh()).phase, 'running')
    assert.equal(await state(sandbox), before)
    assert.deepEqual(await listed(), builds)
    const { open, files } = await tracesOf(world.directory, world.blockServer())
    assert.deepEqual(
      [...open, ...files].filter((one) => /capture|content\/tmp/.test(one)),
      [],
    )
  } finally {
    await disk.grow()
  }
  await sandbox.pause()
  await sandbox.resume()
  assert.equal(await state(sandbox), before)
})

test(`a template for which the disk has no room is refused, and the one before is as it was${why}`, {
  skip,
}, async () => {
  const builds = await listed()
  const command = 'head -c 200000000 /dev/urandom > /large && sync'
  const recipe = {
    ...{ from: { template: 'base' }, memoryMiB: 256, diskMiB: 1024 },
    steps: [{ step: { kind: 'run', command }, place: 'test:1', text: `RUN ${command}` }],
  }
  await disk.leave(30 * MiB)
  try {
    assert.match(
      await refusal(world.tutti.templates.build('base', { recipe: recipe as never })),
      /; the disk of the node is full \(.* left\), so free some of it, or build elsewhere$|the disk is full; free some of it and try again$/,
    )
  } finally {
    await disk.grow()
  }
  assert.deepEqual(await listed(), builds)
  assert.deepEqual((await tracesOf(world.directory, world.blockServer())).open, [])
  await using sandbox = await world.create()
  assert.equal((await sandbox.exec('cat /built')).stdout, 'built\n')
})

test(`a copy for which the other store has no room is refused, and nothing of it is listed there${why}`, {
  skip,
}, async () => {
  const to = join(world.cluster.directory, 'small')
  await using small = await mountSmallDisk(to)
  await small.leave(10 * MiB)
  assert.match(
    await refused('build', 'copy', base, '--from', content, '--to', to),
    /in file:\S+: the disk is full; free some of it and try again$/m,
  )
  assert.deepEqual(await world.cluster.json('build', 'list', '--store', to), { builds: [], problems: [] })
  assert.deepEqual(await readdir(join(to, 'tmp')), [])
  await small.grow()
  assert.equal((await world.cluster.tutti('build', 'copy', base, '--from', content, '--to', to)).code, 0)
  assert.equal((await world.cluster.tutti('build', 'verify', base, '--store', to)).code, 0)
})

for (const harm of ['corrupt', 'missing'] as const) {
  test(`a build with a chunk that is ${harm} is not verified, mounted, exported or copied, and nothing is left${why}`, {
    skip,
  }, async () => {
    const at = join(world.cluster.directory, harm)
    await mkdir(at)
    const store = join(at, 'store')
    assert.equal((await world.cluster.tutti('build', 'copy', base, '--from', content, '--to', store)).code, 0)
    for (const pack of await readdir(join(store, 'packs'))) await harmPack(join(store, 'packs', pack), harm)
    const said = new RegExp(`chunk [0-9a-f]{64} .*is ${harm}|pack [0-9a-f]{64} is missing`)
    const verified = await world.cluster.tutti('build', 'verify', base, '--store', store)
    assert.equal(verified.code, 1)
    assert.match(verified.stdout, said)
    const mounts = () =>
      readFileSync('/proc/mounts', 'utf8')
        .split('\n')
        .filter((line) => line.includes(at))
    assert.match(await refused('build', 'mount', base, join(at, 'mounted'), '--store', store, '--detach'), said)
    assert.deepEqual(mounts(), [])
    assert.match(await refused('build', 'export', base, '--store', store, '--raw', join(at, 'raw')), said)
    assert.match(await refused('build', 'export', base, '--store', store, '--oci', join(at, 'oci')), said)
    assert.match(await refused('build', 'copy', base, '--from', store, '--to', join(at, 'other')), said)
    assert.deepEqual(globSync(`${at}/{raw,oci}*`), [])
    assert.deepEqual(globSync(`${at}/other/{builds,refs,tmp}/**/*`), [])
  })

  test(`a paused sandbox with a chunk that is ${harm} stays paused, and goes on when that is mended${why}`, {
    skip,
  }, async () => {
    const packsBefore = new Set(await readdir(join(content, 'packs')))
    await using sandbox = await world.create()
    const before = await withState(sandbox, 4 * MiB)
    await sandbox.pause()
    const kept = join(world.cluster.directory, `kept-${harm}`)
    await cp(join(content, 'packs'), kept, { recursive: true })
    const own = (await readdir(kept)).filter((pack) => !packsBefore.has(pack))
    assert.ok(own.length > 0)
    for (const ready of ['differences', 'bases']) await rm(join(world.directory, 'blocks', ready), { recursive: true })
    for (const pack of own) await harmPack(join(content, 'packs', pack), harm)
    await world.restartBlockServer()
    const said = await refusal(sandbox.resume())
    assert.match(said, new RegExp(`chunk [0-9a-f]{64} .*is ${harm}|pack [0-9a-f]{64} is missing`))
    assert.equal((await sandbox.refresh()).phase, 'paused')
    const { open } = await tracesOf(world.directory, world.blockServer())
    assert.deepEqual(open, [])
    assert.deepEqual(world.vms(), [])
    for (const pack of own) await copyFile(join(kept, pack), join(content, 'packs', pack))
    await world.restartBlockServer()
    await sandbox.resume()
    assert.equal(await state(sandbox), before)
  })
}

test(`what another VMM or CPU saved is neither begun from nor resumed, and the reason names both${why}`, {
  skip,
}, async () => {
  await using paused = await world.create()
  const before = await withState(paused, MiB)
  await paused.pause()
  const builds = await listed()
  for (const [build, start] of [
    [base, () => world.create()],
    [`${paused.info.pausedBuild}`, () => paused.resume()],
  ] as const) {
    const file = join(content, 'builds', `${build}.json`)
    const text = readFileSync(file, 'utf8')
    const manifest = JSON.parse(text)
    const { compat } = manifest.snapshot
    const other = 'qemu 6.0 pc-q35-6.0 tcg Nehalem'
    await writeFile(file, JSON.stringify({ ...manifest, snapshot: { ...manifest.snapshot, compat: other } }))
    await world.restartBlockServer()
    const said = await refusal(start())
    assert.ok(said.includes(`was made by another VMM (${other}) than this node has (${compat})`), said)
    await writeFile(file, text)
    await world.restartBlockServer()
  }
  assert.deepEqual(await listed(), builds)
  assert.equal((await paused.refresh()).phase, 'paused')
  assert.equal((await world.tutti.sandboxes.list()).length, 1)
  await paused.resume()
  assert.equal(await state(paused), before)
})

/** Every byte of its chunks is another, or it is gone. */
async function harmPack(path: string, harm: 'corrupt' | 'missing'): Promise<void> {
  if (harm === 'missing') return rm(path)
  await using file = await open(path, 'r+')
  const { size } = await file.stat()
  const { buffer: footer } = await file.read(Buffer.alloc(footerBytes), 0, footerBytes, size - footerBytes)
  const end = footer.readUInt32LE(32)
  await file.write(Buffer.alloc(end - packHead.length, 0xa5), 0, undefined, packHead.length)
}
