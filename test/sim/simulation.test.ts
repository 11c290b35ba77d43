import assert from 'node:assert/strict'
import { test } from 'node:test'
import { testJob } from '../../src/control/testing.ts'
import type { Random } from '../../src/kit/random.ts'
import { isLive } from '../../src/model/allocation.ts'
import { Simulation } from './simulation.ts'

const minute = 60_000
const jobs = ['web', 'api', 'cron'] as const

test('three nodes run a job, and a crash of the control plane goes unnoticed by its tasks', async () => {
  const world = await open('calm', 3)
  await world.apply(testJob({ name: 'web', count: 3 }))
  await world.clock.until(() => world.live('web').filter((row) => row.healthy).length === 3, {
    what: 'three healthy copies',
  })
  const starts = world.nodes.flatMap((node) => node.machine.starts)
  world.crashControl()
  await world.clock.advance(minute)
  await world.startControl()
  await world.clock.advance(minute)
  assert.equal(world.live('web').filter((row) => row.healthy).length, 3)
  assert.deepEqual(
    world.nodes.flatMap((node) => node.machine.starts),
    starts,
  )
})

test('an agent that is killed ten times adopts its tasks and restarts none', async () => {
  const world = await open('adoption', 1)
  await world.apply(testJob({ name: 'web', count: 3 }))
  await world.clock.until(() => world.live('web').filter((row) => row.healthy).length === 3, {
    what: 'three healthy copies',
  })
  const [node] = world.nodes
  assert.ok(node)
  for (let round = 0; round < 10; round++) {
    world.crashAgent(node)
    await world.clock.advance(2000)
    await world.startAgent(node)
    await world.clock.advance(3000)
  }
  assert.equal(node.machine.starts.length, 3)
  assert.ok(world.live('web').every((row) => row.tasks.main?.restarts === 0 && row.healthy))
})

test('a partition that outlasts the lease, healed, ends with exactly the wanted copies', async () => {
  const world = await open('partition', 3)
  await world.apply(testJob({ name: 'web', count: 6 }))
  await world.clock.until(() => world.live('web').filter((row) => row.healthy).length === 6, {
    what: 'six healthy copies',
  })
  const [node] = world.nodes
  assert.ok(node)
  world.cut(node)
  await world.clock.advance(minute)
  assert.equal(world.store.view.get('nodes', node.id)?.phase, 'lost')
  assert.equal(world.live('web').length, 6)
  world.heal(node)
  await world.clock.advance(minute)
  assert.equal(world.store.view.get('nodes', node.id)?.phase, 'ready')
  assertExact(world, 'web', 6)
})

for (const seed of process.env['SEEDS']?.split(',') ?? Array.from({ length: 30 }, (_, index) => `seed-${index}`)) {
  test(`whatever crashes and breaks, calm brings back exactly what is wanted (seed ${seed})`, async () => {
    const world = await open(seed, 3)
    const wanted = new Map<string, number>()
    for (let step = 0; step < 120; step++) {
      await disturb(world, world.random, wanted)
      await world.clock.advance(Math.floor(world.random.fraction() * 4000))
    }
    await calm(world)
    for (const [job, count] of wanted) assertExact(world, job, count)
    assert.ok(world.commits > 10, 'something happened')
    for (const node of world.nodes) assert.deepEqual(node.machine.broken, [])
  })
}

async function open(seed: string, nodes: number): Promise<Simulation> {
  const world = new Simulation(seed)
  await world.startControl()
  for (let index = 0; index < nodes; index++) await world.addNode(`node-${index}`)
  await world.clock.advance(1000)
  return world
}

/** One thing that may go wrong, or one wish. */
async function disturb(world: Simulation, random: Random, wanted: Map<string, number>): Promise<void> {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random.fraction() * from.length)] as T
  const node = pick(world.nodes)
  const dice = random.fraction()
  if (dice < 0.3 && world.isUp) {
    const name = pick(jobs)
    const count = Math.floor(random.fraction() * 6)
    const env = { ROUND: String(Math.floor(random.fraction() * 3)) }
    wanted.set(name, count)
    await world.apply(
      testJob({
        name,
        count,
        tasks: { main: { driver: 'fake', env, resources: { cpu: 100, memory: '64MiB' } } },
        update: { parallel: 2 },
      }),
    )
  } else if (dice < 0.35 && world.isUp) {
    const name = pick(jobs)
    if (wanted.has(name)) wanted.set(name, 0)
    await world.stop(name)
  } else if (dice < 0.55) {
    const alive = node.machine.alive()
    if (alive.length > 0) node.machine.exit(pick(alive), { code: random.fraction() < 0.5 ? 0 : 1 })
  } else if (dice < 0.65) {
    if (node.agent) world.crashAgent(node)
    else await world.startAgent(node)
  } else if (dice < 0.75) {
    if (world.isUp) world.crashControl()
    else await world.startControl()
  } else if (dice < 0.85) world.cut(node)
  else world.heal(node)
}

/** Everything is well again, and time passes. */
async function calm(world: Simulation): Promise<void> {
  if (!world.isUp) await world.startControl()
  for (const node of world.nodes) {
    world.heal(node)
    if (!node.agent) await world.startAgent(node)
  }
  await world.clock.advance(15 * minute)
}

/** The store and the machines agree: so many healthy copies, each on the machine that it should be on, and no other. */
function assertExact(world: Simulation, job: string, count: number): void {
  const live = world.live(job)
  assert.equal(live.length, count, `${job}: live in the store (${world.store.view.get('jobs', job)?.blocked})`)
  assert.ok(
    live.every((row) => row.healthy),
    `${job}: ${live.map((row) => row.phase)}`,
  )
  const running = world.nodes.flatMap((node) =>
    node.machine.alive().map((task) => ({ node: node.id, allocation: task.replace(/-main$/, '') })),
  )
  const rows = running.map((task) => ({ ...task, row: world.store.view.get('allocations', task.allocation) }))
  const ours = rows.filter(({ row }) => row?.job === job)
  assert.equal(ours.length, count, `${job}: running on machines`)
  for (const { row, node } of ours) assert.ok(row && isLive(row) && row.node === node)
  assert.ok(
    rows.every(({ row }) => row !== undefined),
    'nothing runs that the store does not know',
  )
}
