import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { openObjects } from '../../src/blocks/objects/open.ts'
import type { ObjectStore } from '../../src/blocks/objects.ts'
import { connectBlockServer } from '../../src/blocks/server/client.ts'
import { canMountFuse } from '../../src/blocks/server/fuse-mount.ts'
import { blockServerSocket } from '../../src/blocks/server/start.ts'
import { systemRandom } from '../../src/kit/system-random.ts'
import { Fault } from '../../src/model/fault.ts'
import { type S3Server, s3Credentials, startS3 } from '../fixtures/s3.ts'
import { lackingSandboxes, SandboxWorld } from '../fixtures/sandboxes.ts'
import { openStoreGate, type StoreGate } from '../fixtures/store-gate.ts'

const lacking =
  (await lackingSandboxes()) ?? (canMountFuse() ? undefined : 'needs /dev/fuse, fusermount3 and qemu-storage-daemon')
const skip = lacking ?? false
const why = skip === false ? '' : ` (skipped: ${skip})`
let world: SandboxWorld
let s3: S3Server
let gate: StoreGate
let objects: ObjectStore
let env: Record<string, string>

before(async () => {
  if (skip !== false) return
  s3 = await startS3()
  gate = await openStoreGate(s3.endpoint)
  const storeAt = (endpoint: string) => `s3://${s3.bucket}/builds?endpoint=${endpoint}&region=eu-central-1`
  env = { TUTTI_STORE: storeAt(gate.endpoint), ...s3Credentials }
  Object.assign(process.env, s3Credentials)
  objects = await openObjects(storeAt(s3.endpoint), { random: systemRandom })
  world = await SandboxWorld.open({ env })
  await world.cluster.until('the template is in the store', async () => (await names()).length === 1, 60_000)
})
after(async () => {
  if (process.env['TUTTI_SHOW']) for (const [name, text] of world.cluster.output) console.log(name, text)
  await world?.[Symbol.asyncDispose]()
  await gate?.[Symbol.asyncDispose]()
  await s3?.[Symbol.asyncDispose]()
})

async function names(): Promise<string[]> {
  return (await Array.fromAsync(objects.list('refs/build/'))).map(({ key }) => key)
}

async function blocksOf(node: string) {
  const directory = join(world.directoryOf(node), 'blocks')
  await using server = await connectBlockServer({
    socket: blockServerSocket(directory),
    signal: AbortSignal.timeout(10_000),
  })
  return await server.ask('list', {}, { signal: AbortSignal.timeout(10_000) })
}

/** So much of packs goes through before the store stands still: about half of what a clone's memory takes there. */
const firstBytes = 14_000_000

test(`a node that has only the store answers before most of its memory has arrived, pauses and resumes${why}`, {
  skip,
}, async () => {
  await world.addNode('n2', env)
  const tooMuch = gate.shut(firstBytes)
  const creating = world.create({ node: 'n2' })
  try {
    const answered = creating.then((sandbox) => sandbox.exec('echo hi'))
    assert.equal((await Promise.race([answered, tooMuch])).stdout, 'hi\n')
    const [memory] = (await blocksOf('n2')).memories
    assert.ok(memory)
    assert.ok(memory.fetchedBytes < memory.bytes / 2, `${memory.fetchedBytes} of ${memory.bytes} bytes had arrived`)
  } finally {
    gate.open()
  }
  await using sandbox = await creating
  process.kill(world.blockServer('n2'), 'SIGKILL')
  assert.equal((await sandbox.exec('echo hi > /dev/shm/kept; cat /dev/shm/kept')).stdout, 'hi\n')
  await sandbox.pause()
  await world.cluster.until('only machines made ahead hold memory', async () => {
    const { disks, memories } = await blocksOf('n2')
    return memories.every(({ holders }) => holders.every((holder) => disks.some(({ name }) => name === holder)))
  })
  await sandbox.resume()
  assert.equal((await sandbox.exec('cat /dev/shm/kept')).stdout, 'hi\n')
})

test(`what was paused on a node that is gone, or drained, goes on at another that shares the store${why}`, {
  skip,
}, async () => {
  await using sandbox = await world.create({ node: 'n2' })
  const counting = 'n=0; while :; do n=$((n+1)); echo $n > /dev/shm/n; sleep 0.1; done'
  const running = await sandbox.start(['sh', '-c', counting], { detached: true })
  running.exited.catch(() => {})
  const fill = 'head -c 8388608 /dev/urandom > /dev/shm/memory; head -c 8388608 /dev/urandom > /root/disk; sync'
  assert.equal((await sandbox.exec(fill)).code, 0)
  const state = 'sha256sum /dev/shm/memory /root/disk; hostname'
  const before = (await sandbox.exec(state)).stdout
  let counted = 0
  const pausedOn = async (name: string) => {
    counted = Number((await sandbox.exec('cat /dev/shm/n')).stdout)
    await sandbox.pause()
    const { pausedBuild } = sandbox.info
    await world.cluster.until('the pause is in the store', async () =>
      (await names()).some((key) => key.includes(`${pausedBuild}`)),
    )
    const { nodes } = await world.tutti.client.listNodes()
    assert.equal(nodes.find(({ id }) => id === sandbox.info.node)?.name, name)
  }
  const goesOnAt = async (name: string) => {
    await sandbox.resume()
    const { nodes } = await world.tutti.client.listNodes()
    assert.equal(nodes.find(({ id }) => id === sandbox.info.node)?.name, name)
    assert.equal((await sandbox.exec(`echo 3 > /proc/sys/vm/drop_caches; ${state}`)).stdout, before)
    await world.cluster.until(
      'the process of before counts on',
      async () => Number((await sandbox.exec('cat /dev/shm/n')).stdout) > counted,
    )
  }
  await pausedOn('n2')
  await world.loseNode('n2')
  await world.cluster.until('the node is lost', async () => !(await world.nodeWorks('n2')))
  await goesOnAt('n1')
  // And from there, which is only closed, to a third.
  await pausedOn('n1')
  await world.addNode('n3', env)
  assert.equal((await world.cluster.tutti('node', 'drain', 'n1')).code, 0)
  await goesOnAt('n3')
  assert.equal((await world.cluster.tutti('node', 'enable', 'n1')).code, 0)
})

test(`a chunk that is corrupt in the store, and a pack that is missing, are told in one sentence${why}`, {
  skip,
}, async () => {
  await world.addNode('n4', env)
  const packs = await Array.fromAsync(objects.list('packs/'))
  for (const { key } of packs) {
    const bytes = await objects.get(key)
    bytes.fill(0xa5, 8, Math.floor(bytes.length * 0.9))
    await objects.put(key, bytes, { size: bytes.length })
  }
  const refusal = async (node: string) => {
    const error = await world.create({ node }).catch((error: unknown) => error)
    return Fault.from(error).message
  }
  assert.match(await refusal('n4'), /^[^\n]*chunk \w+[^\n]* is corrupt in pack [^\n]*$/)
  await world.addNode('n5', env)
  for (const { key } of packs) await objects.delete(key)
  assert.match(await refusal('n5'), /^[^\n]*pack \w+ is missing in s3:[^\n]*$/)
  for (const node of ['n4', 'n5']) assert.deepEqual((await blocksOf(node)).disks, [])
})
