import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openObjects } from '../src/blocks/objects/open.ts'
import { connectBlockServer } from '../src/blocks/server/client.ts'
import { blockServerSocket } from '../src/blocks/server/start.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import { s3Credentials, startS3 } from '../test/fixtures/s3.ts'
import { SandboxWorld } from '../test/fixtures/sandboxes.ts'
import { type Figure, report } from './figures.ts'

/**
 * The first output of a sandbox whose build lies only in a bucket on loopback, on nodes that have nothing, and how much of
 * its memory came for that. Usage: node bench/lazy.ts [nodes] [MiB]
 */
const nodes = Number(process.argv[2] ?? 2)
const memoryMiB = Number(process.argv[3] ?? 512)
/** For what a node makes ahead. */
const calmMs = 5000

const figures: Figure[] = []
{
  await using s3 = await startS3()
  const store = `s3://${s3.bucket}/builds?endpoint=${s3.endpoint}&region=eu-central-1`
  const env = { TUTTI_STORE: store, ...s3Credentials }
  Object.assign(process.env, s3Credentials)
  const objects = await openObjects(store, { random: systemRandom })
  await using world = await SandboxWorld.open({ env, recipe: { memoryMiB } })
  await world.cluster.until('the template is in the store', async () => {
    return (await Array.fromAsync(objects.list('refs/build/'))).length === 1
  })
  for (let round = 1; round <= nodes; round += 1) {
    const name = `lazy-${round}`
    await world.addNode(name, env)
    // Sandboxes are opened when a node is first asked for one, and that is done before.
    const nothing = { from: { image: '127.0.0.1:1/nothing' }, steps: [], memoryMiB: 64, diskMiB: 64 }
    await world.tutti.templates.build('nothing', { recipe: nothing, node: name }).catch(() => {})
    await using server = await opened(world, name)
    const begun = performance.now()
    await using sandbox = await world.create({ node: name })
    const created = performance.now() - begun
    await sandbox.exec('echo hi')
    const answered = performance.now() - begun
    const { memories } = await server.ask('list', {}, { signal: AbortSignal.timeout(10_000) })
    const [memory] = memories
    if (memory === undefined) throw new Error('it has no memory')
    const share = (memory.fetchedBytes / (memoryMiB * 2 ** 20)) * 100
    // What goes on behind it on this node is not to be in the next one's way.
    await world.cluster.until('all of the memory is here', async () => {
      const { memories: now } = await server.ask('list', {}, { signal: AbortSignal.timeout(10_000) })
      return now.every(({ fetchedBytes, bytes }) => fetchedBytes >= bytes)
    })
    await sleep(calmMs)
    figures.push({ what: `node ${round}: created`, reached: created, unit: 'ms' })
    figures.push({ what: `node ${round}: first output`, reached: answered, unit: 'ms', asked: 600 })
    figures.push({ what: `node ${round}: memory fetched before it`, reached: share, unit: '%', asked: 5 })
    figures.push({ what: `node ${round}: memory that is not zeros`, reached: memory.bytes / 2 ** 20, unit: 'MiB' })
  }
}
report('lazy', figures)
process.exit(0)

/** The node's block server, which runs once somebody has asked for something. */
async function opened(world: SandboxWorld, name: string) {
  const directory = join(world.directoryOf(name), 'blocks')
  const socket = blockServerSocket(directory)
  await world.cluster.until(`the block server of ${name} answers`, async () => {
    await using server = await connectBlockServer({ socket, signal: AbortSignal.timeout(5000) })
    return server !== undefined
  })
  return connectBlockServer({ socket, signal: AbortSignal.timeout(5000) })
}
