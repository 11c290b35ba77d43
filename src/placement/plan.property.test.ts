import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLive } from '../model/allocation.ts'
import type { JobInput } from '../model/job.ts'
import type { Job } from '../model/records.ts'
import { brokenConstraint } from './constraint.ts'
import { needsRestart } from './diff.ts'
import { usageOf } from './fit.ts'
import type { Plan } from './move.ts'
import { ToyCluster, toyJob } from './toy-cluster.ts'
import { Usage } from './usage.ts'

/**
 * What must hold whatever happens and in whatever order: jobs come, change and go, machines come, drain and are lost,
 * copies fail and end, plans are committed late.
 */

const GiB = 2 ** 30
const names = ['web', 'api', 'batch'] as const
const racks = ['a', 'b'] as const

const index = fc.nat({ max: 30 })
const jobShape = fc.record({
  name: fc.constantFrom(...names),
  count: fc.nat({ max: 6 }),
  memory: fc.constantFrom(1, 2, 3),
  cores: fc.constantFrom(0, 0.25, 1.5),
  parallel: fc.constantFrom(1, 2),
  port: fc.constantFrom('none', 'dynamic', 'static'),
  rack: fc.constantFrom('any', ...racks),
  env: fc.constantFrom('x', 'y'),
  volume: fc.boolean(),
})
type JobShape = typeof jobShape extends fc.Arbitrary<infer T> ? T : never

const command = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('apply'), job: jobShape }) },
  { weight: 12, arbitrary: fc.record({ do: fc.constant('plan'), name: fc.constantFrom(...names) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('commitLate') }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('obey') }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('fail'), index }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('complete'), index }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('sicken'), index }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('addNode'), rack: fc.constantFrom(...racks) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('lose'), index }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('return'), index }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('drain'), index, deadline: fc.option(fc.nat(20_000)) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('open'), index }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('label'), index, rack: fc.constantFrom(...racks) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('stop'), name: fc.constantFrom(...names) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('wait'), ms: fc.nat(10_000) }) },
)
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never

const commands = fc.array(command, { maxLength: 60, size: 'max' })
const runs = { numRuns: 300 }

test('no committed state has more on a machine than it holds, a port twice, or two live copies in a slot', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) {
        world.apply(each)
        checkTruth(world.cluster)
      }
    }),
    runs,
  )
})

test('usage kept step by step is what adding everything up gives', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) world.apply(each)
      checkUsage(world.cluster)
    }),
    runs,
  )
})

test('the same view, time and seed give the same plan, and planning changes nothing', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) world.apply(each)
      for (const { name } of world.cluster.jobs()) {
        const made = world.cluster.plan(name, { seed: 11 })
        checkUsage(world.cluster)
        assert.deepEqual(world.cluster.plan(name, { seed: 11 }), made)
      }
    }),
    runs,
  )
})

test('every plan that is carried out brings its job nearer to what it wants', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) {
        const job = each.do === 'plan' ? world.find(each.name) : undefined
        const before = job ? distance(world.cluster, job) : 0
        const made = world.apply(each)
        if (!job || !made || made.moves.length === 0) continue
        const after = distance(world.cluster, job)
        assert.ok(after <= before - made.moves.length, `from ${before} to ${after} with ${made.moves.length} moves`)
      }
    }),
    runs,
  )
})

test('never more copies are taken down for an update or a drain than may be away at once', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) {
        const made = world.apply(each)
        if (!made) continue
        const { spec } = world.cluster.job(made.job)
        const moved = made.moves.filter(
          (move) => move.kind === 'stop' && move.cause !== 'excess' && !forced(world, move.expects),
        )
        assert.ok(moved.length <= spec.update.parallel)
      }
    }),
    runs,
  )
})

test('given room and time every job gets exactly what it wants, and then nothing moves any more', () => {
  fc.assert(
    fc.property(commands, (list) => {
      const world = new World()
      for (const each of list) world.apply(each)
      const { cluster } = world
      for (const rack of racks) {
        for (let spare = 0; spare < 18; spare += 1)
          cluster.addNode(`spare-${rack}${spare}`, { memory: 64 * GiB, cores: 64 }, { rack })
      }
      cluster.converge()
      checkTruth(cluster)
      for (const job of cluster.jobs()) {
        const made = cluster.plan(job.name)
        assert.deepEqual(made.moves, [], 'a converged job has an empty plan')
        assert.equal(made.blocked, '')
        assert.equal(made.settled, true)
        assert.equal(distance(cluster, job), 0)
        const done = [...cluster.slots(job.name)].filter(
          (slot) =>
            slot.index < job.spec.count &&
            job.spec.type === 'batch' &&
            slot.completedRound === job.round &&
            !liveIn(cluster, job, slot.index),
        )
        assert.equal(cluster.live(job.name).length, job.stopped ? 0 : job.spec.count - done.length)
      }
    }),
    runs,
  )
})

/** A cluster under commands that need not make sense: those that do not are passed over. */
class World {
  readonly cluster = new ToyCluster()
  #late: Plan | undefined
  #nodes = 0

  constructor() {
    for (const rack of racks) this.#addNode(rack)
  }

  find(name: string): Job | undefined {
    return this.cluster.jobs().find((job) => job.name === name)
  }

  /** Says what was planned, if it was and all of it was committed. */
  apply(each: Command): Plan | undefined {
    const { cluster } = this
    switch (each.do) {
      case 'apply':
        cluster.apply(input(each.job))
        return undefined
      case 'plan': {
        if (!this.find(each.name)) return undefined
        const made = cluster.plan(each.name)
        this.#late ??= made
        assert.equal(cluster.commit(made), 0, 'nothing happened in between, so all of it holds')
        return made
      }
      case 'commitLate':
        // As a planner would whose commit was overtaken; the control plane lets no plan of another version through.
        if (
          this.#late &&
          this.find(this.#late.job)?.version === this.#late.version &&
          !cluster.job(this.#late.job).stopped
        )
          cluster.commit(this.#late)
        this.#late = undefined
        return undefined
      case 'obey':
        cluster.obey()
        return undefined
      case 'fail':
      case 'complete':
      case 'sicken':
        this.#end(each.do, each.index)
        return undefined
      case 'addNode':
        this.#addNode(each.rack)
        return undefined
      case 'stop':
        if (this.find(each.name)) cluster.stopJob(each.name)
        return undefined
      case 'wait':
        cluster.now += each.ms
        return undefined
      default:
        this.#steer(each)
        return undefined
    }
  }

  #steer(each: Extract<Command, { do: 'lose' | 'return' | 'drain' | 'open' | 'label' }>): void {
    const { cluster } = this
    const nodes = [...cluster.nodes()]
    const { name } = nodes[each.index % nodes.length] ?? { name: '' }
    if (each.do === 'lose') cluster.loseNode(name)
    else if (each.do === 'return') cluster.changeNode(name, { phase: 'ready' })
    else if (each.do === 'open') cluster.changeNode(name, { eligible: true, drain: null })
    else if (each.do === 'label') cluster.changeNode(name, { labels: { rack: each.rack } })
    else {
      const deadline = each.deadline === null ? null : cluster.now + each.deadline
      cluster.changeNode(name, { eligible: false, drain: { since: cluster.now, deadline } })
    }
  }

  #end(how: 'fail' | 'complete' | 'sicken', at: number): void {
    const live = this.cluster.live()
    const allocation = live[at % Math.max(1, live.length)]
    if (!allocation) return
    if (how === 'sicken') this.cluster.putAllocation({ ...allocation, healthy: false })
    else this.cluster.end(allocation, how === 'fail' ? 'failed' : 'complete')
  }

  #addNode(rack: string): void {
    this.#nodes += 1
    this.cluster.addNode(`n${this.#nodes}`, { cores: 4, memory: 6 * GiB, ports: [30_000, 30_003] }, { rack })
  }
}

function input(shape: JobShape): JobInput {
  const ports: JobInput['ports'] =
    shape.port === 'none' ? {} : { http: shape.port === 'static' ? 30_001 : 'dynamic', more: 'dynamic' }
  return toyJob(
    shape.name,
    {
      type: shape.name === 'batch' ? 'batch' : 'service',
      count: shape.count,
      constraints: shape.rack === 'any' ? [] : [`label.rack == ${shape.rack}`],
      reschedule: { delay: 5000, attempts: 1000 },
      update: { parallel: shape.parallel, healthyAfter: 1000 },
      volumes: shape.volume ? { data: {} } : {},
      ports,
    },
    { resources: { memory: shape.memory * GiB, cores: shape.cores }, env: { A: shape.env } },
  )
}

function checkTruth(cluster: ToyCluster): void {
  const slots = new Set<string>()
  for (const { job, slot } of cluster.live()) {
    assert.ok(!slots.has(`${job}/${slot}`), `two live copies in ${job}/${slot}`)
    slots.add(`${job}/${slot}`)
  }
  for (const node of cluster.nodes()) {
    const live = cluster.live().filter((each) => each.node === node.id)
    const used = usageOf(live, (job, version) => cluster.spec(job, version))
    const { facts } = node
    assert.ok(facts)
    assert.ok(used.memory <= facts.memory, `${node.name} has ${used.memory} of ${facts.memory} bytes in use`)
    assert.ok(used.disk <= facts.disk)
    assert.ok(used.cpuMHz + used.cores * facts.coreMHz <= facts.cores * facts.coreMHz)
    const ports = live.flatMap((each) => Object.values(each.ports))
    assert.equal(new Set(ports).size, ports.length, `a port is held twice on ${node.name}`)
    for (const each of live) {
      const asked = cluster.spec(each.job, each.version)?.ports ?? {}
      assert.deepEqual(Object.keys(each.ports).sort(), Object.keys(asked).sort())
      for (const [name, { static: port }] of Object.entries(asked)) if (port) assert.equal(each.ports[name], port)
    }
  }
}

function checkUsage(cluster: ToyCluster): void {
  const fresh = new Usage()
  for (const node of cluster.nodes()) fresh.setNode(node)
  for (const allocation of cluster.live()) {
    const spec = cluster.spec(allocation.job, allocation.version)
    assert.ok(spec)
    fresh.add(allocation, spec)
  }
  for (const node of cluster.nodes()) assert.deepEqual(roomOf(cluster.usage, node.id), roomOf(fresh, node.id))
}

function roomOf(usage: Usage, node: Parameters<Usage['row']>[0]) {
  const room = usage.room(usage.row(node) ?? -1)
  const holders = Array.from({ length: 4 }, (_, port) => room.portHolder(30_000 + port))
  const { usedMHz, usedCores, usedMemory, usedDisk, usedDynamicPorts } = room
  return { usedMHz, usedCores, usedMemory, usedDisk, usedDynamicPorts, holders }
}

/** Missing, excess, outdated and misplaced copies, each weighed by the steps it takes to put right. */
function distance(cluster: ToyCluster, job: Job): number {
  let sum = 0
  const most = Math.max(job.spec.count, ...[...cluster.slots(job.name)].map((slot) => slot.index + 1))
  const slots = new Map([...cluster.slots(job.name)].map((slot) => [slot.index, slot]))
  for (let at = 0; at < most; at += 1) {
    const live = liveIn(cluster, job, at)
    const wanted = !job.stopped && at < job.spec.count
    const done = job.spec.type === 'batch' && slots.get(at)?.completedRound === job.round
    if (!live) sum += wanted && !done ? 1 : 0
    else if (live.desired === 'stop') sum += 2
    else if (!wanted) sum += 3
    else sum += distanceOfLive(cluster, job, live)
  }
  return sum
}

function distanceOfLive(cluster: ToyCluster, job: Job, live: NonNullable<ReturnType<ToyCluster['newest']>>): number {
  const node = cluster.node(live.node)
  const spec = cluster.spec(job.name, live.version)
  assert.ok(node && spec)
  const old = live.version === job.version ? 0 : 1
  const drained =
    node.drain && (job.spec.type === 'service' || (node.drain.deadline ?? Number.POSITIVE_INFINITY) <= cluster.now)
  const misplaced = drained || brokenConstraint(job.spec, node) !== undefined
  return old + (misplaced || needsRestart(spec, job.spec).length > 0 ? 3 : 0)
}

function liveIn(cluster: ToyCluster, job: Job, at: number) {
  const newest = cluster.newest(job.name, at)
  return newest && isLive(newest) ? newest : undefined
}

function forced({ cluster }: World, id: Parameters<ToyCluster['allocation']>[0]): boolean {
  const allocation = cluster.allocation(id)
  const drain = allocation && cluster.node(allocation.node)?.drain
  return drain?.deadline !== null && drain?.deadline !== undefined && drain.deadline <= cluster.now
}
