import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
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

const lacking =
  (await lackingSandboxes()) ?? (canMountFuse() ? undefined : 'needs /dev/fuse, fusermount3 and qemu-storage-daemon')
const skip = lacking ?? false
const why = skip === false ? '' : ` (skipped: ${skip})`
let world: SandboxWorld
let s3: S3Server
let objects: ObjectStore
let env: Record<string, string>

before(async () => {
  if (skip !== false) return
  s3 = await startS3()
  env = { TUTTI_STORE: `s3://${s3.bucket}/builds?endpoint=${s3.endpoint}&region=eu-central-1`, ...s3Credentials }
  Object.assign(process.env, s3Credentials)
  objects = await openObjects(env['TUTTI_STORE'] as string, { random: systemRandom })
  world = await SandboxWorld.open({ env })
  await world.cluster.until('the template is in the store', async () => (await names()).length === 1, 60_000)
})
after(async () => {
  if (process.env['TUTTI_SHOW']) for (const [name, text] of world.cluster.output) console.log(name, text)
  await world?.[Symbol.asyncDispose]()
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

test(`a node that has only the store starts a sandbox before its memory has arrived, pauses and resumes it${why}`, {
  skip,
}, async () => {
  await world.addNode('n2', env)
  await using sandbox = await world.create({ node: 'n2' })
  // Only what had not arrived when it was asked for is given so.
  assert.match(readFileSync('/proc/mounts', 'utf8'), new RegExp(`${world.directoryOf('n2')}/blocks/lazy/`))
  process.kill(world.blockServer('n2'), 'SIGKILL')
  assert.equal((await sandbox.exec('echo hi > /dev/shm/kept; cat /dev/shm/kept')).stdout, 'hi\n')
  await sandbox.pause()
  await world.cluster.until('only machines made ahead hold memory', async () => {
    const { disks, memories } = await blocksOf('n2')
    return memories.every(({ holders }) => holders.every((holder) => disks.some(({ name }) => name === holder)))
  })
  await sandbox.resume()
  assert.equal((await sandbox.exec('cat /dev/shm/kept')).stdout, 'hi\n')
  await world.cluster.until('the pause is in the store', async () => (await names()).length === 2, 60_000)
})

test(`a chunk that is corrupt in the store, and a pack that is missing, are told in one sentence${why}`, {
  skip,
}, async () => {
  await world.addNode('n3', env)
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
  assert.match(await refusal('n3'), /^[^\n]*chunk \w+[^\n]* is corrupt in pack [^\n]*$/)
  await world.addNode('n4', env)
  for (const { key } of packs) await objects.delete(key)
  assert.match(await refusal('n4'), /^[^\n]*pack \w+ is missing in s3:[^\n]*$/)
  for (const node of ['n3', 'n4']) assert.deepEqual((await blocksOf(node)).disks, [])
})
