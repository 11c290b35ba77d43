import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { JobInput } from '../model/job.ts'
import type { Move, Plan } from './move.ts'
import { ToyCluster, toyFacts, toyJob } from './toy-cluster.ts'

const GiB = 2 ** 30

function clusterOf(nodes: number, facts: Parameters<ToyCluster['addNode']>[1] = {}): ToyCluster {
  const cluster = new ToyCluster()
  for (let index = 0; index < nodes; index += 1) cluster.addNode(`n${index}`, facts)
  return cluster
}

function kinds(plan: Plan): Record<Move['kind'], number> {
  const counts = { place: 0, stop: 0, keep: 0 }
  for (const move of plan.moves) counts[move.kind] += 1
  return counts
}

const stopped = (plan: Plan) => plan.moves.filter((move) => move.kind === 'stop').map((move) => move.slot)
const gigabyte = { resources: { memory: '1GiB' } }

/** A job that is as it should be, on a cluster. */
function running(cluster: ToyCluster, job: Partial<JobInput>, task: object = gigabyte): ToyCluster {
  cluster.apply(toyJob('web', job, task))
  cluster.converge()
  assert.deepEqual(cluster.plan('web').moves, [])
  return cluster
}

describe('placing', () => {
  test('ten copies on ten machines get a machine each', () => {
    const cluster = clusterOf(10)
    cluster.apply(toyJob('web', { count: 10 }, gigabyte))
    const made = cluster.step('web')
    assert.deepEqual(kinds(made), { place: 10, stop: 0, keep: 0 })
    assert.equal(made.blocked, '')
    assert.equal(new Set(cluster.places('web')).size, 10)
  })

  test('without any machine a job says how to get one', () => {
    const cluster = new ToyCluster()
    cluster.apply(toyJob('web', { count: 2 }))
    assert.equal(
      cluster.plan('web').blocked,
      'no node can take "web" (2 of 2 copies unplaced): no node has joined yet; start an agent with "tutti agent --join TOKEN ADDRESS"',
    )
  })

  test('with room for five of ten copies five run, the rest say why, and a new machine takes them', () => {
    const cluster = clusterOf(5)
    cluster.apply(toyJob('web', { count: 10 }, { resources: { memory: '5GiB' } }))
    const made = cluster.step('web')
    assert.equal(kinds(made).place, 5)
    assert.equal(
      made.blocked,
      'no node can take "web" (5 of 10 copies unplaced): 5 lack memory (needs 5 GiB, most free 3 GiB); add a node with 5 GiB of free memory',
    )
    cluster.addNode('large', { memory: 64 * GiB, cores: 64 })
    assert.equal(cluster.step('web').blocked, '')
    assert.equal(cluster.live('web').length, 10)
  })

  test('a copy too many for a port that each machine has once waits for that port', () => {
    const cluster = clusterOf(2)
    cluster.apply(toyJob('web', { count: 3, ports: { http: 80 } }))
    const made = cluster.step('web')
    assert.deepEqual(cluster.places('web').sort(), ['n0', 'n1'])
    assert.match(made.blocked, /1 of 3 copies unplaced\): 2 have port 80 in use; add a node where port 80 is free/)
  })

  test('dynamic ports of one machine never meet, and the last copy says that ports ran out', () => {
    const cluster = clusterOf(1, { ports: [30_000, 30_004], cores: 64, memory: 64 * GiB })
    cluster.apply(toyJob('web', { count: 3, ports: { a: 'dynamic', b: 'dynamic' } }))
    const made = cluster.step('web')
    const ports = cluster.live('web').flatMap((allocation) => Object.values(allocation.ports))
    assert.equal(ports.length, 4)
    assert.equal(new Set(ports).size, 4)
    assert.match(made.blocked, /1 lacks dynamic ports \(needs 2, most free 1\)/)
  })

  test('large machines take more of many copies than small ones', () => {
    const cluster = new ToyCluster()
    cluster.addNode('small', { cores: 4, memory: 8 * GiB })
    cluster.addNode('large', { cores: 32, memory: 64 * GiB })
    cluster.apply(toyJob('web', { count: 24 }, { resources: { memory: '1GiB', cores: 0.5 } }))
    cluster.step('web')
    const large = cluster.places('web').filter((name) => name === 'large').length
    assert.ok(large >= 18, `${large} of 24 are on the large machine`)
    assert.ok(large < 24, 'the small one is used too')
  })

  test('counters such as tart-vms limit how many copies a machine takes', () => {
    const cluster = clusterOf(2, { counters: { 'tart-vms': 2 } })
    cluster.apply(toyJob('vms', { count: 5 }, { resources: { counters: { 'tart-vms': 1 } } }))
    const made = cluster.step('vms')
    assert.equal(cluster.live('vms').length, 4)
    assert.match(made.blocked, /2 lack tart-vms \(needs 1, most free 0\); add a node with 1 free tart-vms/)
  })

  test('every way to be refused is told, each machine once, the commonest first, with what would help', () => {
    const cluster = new ToyCluster()
    for (const name of ['a', 'b', 'c']) cluster.addNode(name, { os: 'macos', memory: 12 * GiB })
    cluster.addNode('d', { os: 'linux', memory: 4 * GiB })
    cluster.addNode('e', { os: 'linux' })
    cluster.addNode('f')
    cluster.changeNode('f', { drain: { since: 0, deadline: null }, eligible: false })
    cluster.apply(toyJob('ci', { constraints: ['os == macos'] }, { resources: { memory: '16GiB' } }))
    assert.equal(
      cluster.plan('ci').blocked,
      'no node can take "ci" (1 of 1 copy unplaced): 3 lack memory (needs 16 GiB, most free 12 GiB), 2 fail "os == macos", 1 is draining; add a node with 16 GiB of free memory, or add a node for which "os == macos" holds',
    )
  })

  const phases: [string, Parameters<ToyCluster['changeNode']>[1], RegExp][] = [
    ['never connected', { phase: 'joined', facts: null }, /1 has never connected; start the agent of node "n0"/],
    ['silent', { phase: 'silent' }, /1 is silent; start the agent of node "n0"/],
    ['lost', { phase: 'lost' }, /1 is lost; start the agent of node "n0"/],
    ['returning', { phase: 'returning' }, /1 is only just returning; wait for node "n0"/],
    ['closed', { eligible: false }, /1 is closed to new work; open node "n0" to new work/],
  ]
  for (const [what, change, says] of phases) {
    test(`nothing new goes to a machine that is ${what}`, () => {
      const cluster = clusterOf(1)
      cluster.changeNode('n0', change)
      cluster.apply(toyJob('web'))
      assert.match(cluster.plan('web').blocked, says)
    })
  }

  test('a driver that is missing or unwell is told with its own reason and remedy', () => {
    const cluster = new ToyCluster()
    cluster.addNode('a', { drivers: {} })
    const sick = { healthy: false, reason: 'no runtime was found.', remedy: 'Install crun or runc.', attributes: {} }
    cluster.addNode('b', { drivers: { container: sick } })
    cluster.addNode('c', { drivers: { container: sick } })
    cluster.apply(toyJob('web', {}, { driver: 'container', image: 'alpine' }))
    assert.match(
      cluster.plan('web').blocked,
      /: 2 have an unhealthy driver "container" \(no runtime was found\), 1 has no driver "container"; Install crun or runc, or add a node with driver "container"$/,
    )
  })

  test('a container network that the driver does not offer refuses, and one that says nothing offers all', () => {
    const cluster = new ToyCluster()
    cluster.addNode('a', { drivers: { container: { healthy: true, attributes: { networks: 'host, none' } } } })
    cluster.apply(toyJob('web', {}, { driver: 'container', image: 'alpine', network: 'bridge' }))
    assert.match(cluster.plan('web').blocked, /1 has no container network "bridge" \(only host, none\)/)
    cluster.addNode('b')
    cluster.step('web')
    assert.deepEqual(cluster.places('web'), ['b'])
  })

  test('a volume that the job does not declare must be offered by the machine', () => {
    const cluster = clusterOf(1)
    const mounts = [{ volume: 'media', to: '/media' }]
    cluster.apply(toyJob('web', {}, { mounts }))
    assert.match(cluster.plan('web').blocked, /1 does not offer volume "media"/)
    cluster.addNode('nas', { volumes: ['media'] })
    cluster.step('web')
    assert.deepEqual(cluster.places('web'), ['nas'])
    cluster.apply(toyJob('own', { volumes: { media: {} } }, { mounts }))
    assert.equal(cluster.plan('own').blocked, '')
  })

  test('two planners that want the last place on a machine: one gets it, the other plans again', () => {
    const cluster = clusterOf(1)
    cluster.apply(toyJob('web', {}, { resources: { memory: '5GiB' } }))
    cluster.apply(toyJob('api', {}, { resources: { memory: '5GiB' } }))
    const both = [cluster.plan('web'), cluster.plan('api')]
    assert.deepEqual(
      both.map((made) => cluster.commit(made)),
      [0, 1],
    )
    assert.match(cluster.plan('api').blocked, /lacks memory/)
  })

  test('planning leaves no trace: the same question gets the same answer', () => {
    const cluster = clusterOf(20)
    cluster.apply(toyJob('web', { count: 30, ports: { http: 'dynamic', fix: 80 } }, gigabyte))
    const first = cluster.plan('web', { seed: 7 })
    assert.deepEqual(cluster.plan('web', { seed: 7 }), first)
    assert.notDeepEqual(cluster.plan('web', { seed: 8 }).moves, first.moves)
  })

  test('a limit cuts a plan short, and it goes on at once', () => {
    const cluster = clusterOf(3)
    cluster.apply(toyJob('web', { count: 5 }))
    const made = cluster.plan('web', { limit: 2 })
    assert.equal(made.moves.length, 2)
    assert.equal(made.wakeAt, cluster.now)
    assert.equal(made.blocked, '')
  })
})

describe('updating', () => {
  test('more copies leave the others untouched', () => {
    const cluster = running(clusterOf(4), { count: 10 })
    const before = cluster.live('web').map(({ id }) => id)
    cluster.apply(toyJob('web', { count: 15 }, gigabyte))
    assert.deepEqual(kinds(cluster.plan('web')), { place: 5, stop: 0, keep: 10 })
    cluster.converge()
    const after = cluster.live('web')
    assert.equal(after.length, 15)
    assert.ok(before.every((id) => after.some((allocation) => allocation.id === id && allocation.version === 2)))
  })

  test('a change that needs a restart replaces three at a time, the next three only when those are healthy', () => {
    const cluster = running(clusterOf(4), { count: 10, update: { parallel: 3 } })
    cluster.apply(toyJob('web', { count: 10, update: { parallel: 3 } }, { ...gigabyte, env: { A: 'b' } }))
    const first = cluster.step('web')
    assert.deepEqual(stopped(first), [0, 1, 2])
    assert.equal(first.later, 7)
    assert.equal(first.settled, false)
    assert.match(
      first.moves[0]?.kind === 'stop' ? first.moves[0].reason : '',
      /version 2 of "web" replaces it: tasks\.main\.env\.A changed/,
    )
    assert.deepEqual(cluster.plan('web').moves, [], 'while they stop nothing else does')
    cluster.obey()
    assert.deepEqual(kinds(cluster.step('web')), { place: 3, stop: 0, keep: 0 })
    assert.deepEqual(cluster.plan('web').moves, [], 'while they start nothing else stops')
    cluster.obey()
    assert.deepEqual(stopped(cluster.step('web')), [3, 4, 5])
    cluster.converge()
    assert.ok(cluster.live('web').every(({ version }) => version === 2))
    assert.equal(cluster.plan('web').settled, true)
  })

  test('a copy has to have been healthy for a while before the next is replaced', () => {
    const update = { parallel: 1, healthyAfter: '30s' }
    const cluster = running(clusterOf(2), { count: 2, update })
    cluster.now += 60_000
    cluster.apply(toyJob('web', { count: 2, update }, { ...gigabyte, env: { A: 'b' } }))
    cluster.step('web')
    cluster.obey()
    cluster.step('web')
    cluster.obey()
    const waiting = cluster.plan('web')
    assert.deepEqual(waiting.moves, [])
    assert.equal(waiting.wakeAt, cluster.now + 30_000)
    cluster.now += 30_000
    assert.deepEqual(stopped(cluster.plan('web')), [1])
  })

  test('on a full machine the old copy makes room for the new one', () => {
    const cluster = running(clusterOf(1), { count: 2 }, { resources: { memory: '4GiB' } })
    cluster.apply(toyJob('web', { count: 2 }, { resources: { memory: '4GiB' }, env: { A: 'b' } }))
    cluster.converge()
    assert.deepEqual(
      cluster.live('web').map(({ version }) => version),
      [2, 2],
    )
  })

  test('a version that fits nowhere takes nothing down', () => {
    const cluster = running(clusterOf(2), { count: 2 })
    cluster.apply(toyJob('web', { count: 2 }, { resources: { memory: '640GiB' } }))
    const made = cluster.plan('web')
    assert.deepEqual(made.moves, [])
    assert.match(
      made.blocked,
      /^the update of "web" waits \(2 of 2 copies keep an older version, .*2 lack memory \(needs 640 GiB/,
    )
  })

  test('a new version that does not become healthy stops the update after as many copies as go at once', () => {
    const cluster = running(clusterOf(4), { count: 4, update: { parallel: 2 } })
    cluster.apply(toyJob('web', { count: 4, update: { parallel: 2 } }, { ...gigabyte, env: { BROKEN: '1' } }))
    for (let round = 0; round < 20; round += 1) {
      cluster.step('web')
      for (const each of cluster.live('web')) {
        if (each.desired === 'stop') cluster.end(each, 'stopped')
        else if (each.version === 2) cluster.end(each, 'failed')
      }
      cluster.now += 10_000
    }
    assert.equal(cluster.live('web').filter(({ version, healthy }) => version === 1 && healthy).length, 2)
  })

  test('copies that are down are replaced before any healthy one is touched', () => {
    const cluster = running(clusterOf(3), { count: 3 })
    const sick = cluster.newest('web', 2)
    assert.ok(sick)
    cluster.putAllocation({ ...sick, healthy: false })
    cluster.apply(toyJob('web', { count: 3 }, { ...gigabyte, env: { A: 'b' } }))
    assert.deepEqual(stopped(cluster.plan('web')), [2])
    cluster.end(sick, 'failed')
    cluster.apply(toyJob('web', { count: 3 }, { ...gigabyte, env: { A: 'c' } }))
    assert.deepEqual(kinds(cluster.step('web')), { place: 1, stop: 0, keep: 0 })
  })

  test('an update is not held up by a copy that has had no room all along', () => {
    const cluster = clusterOf(1)
    cluster.apply(toyJob('web', { count: 3 }, { resources: { memory: '4GiB' } }))
    cluster.step('web')
    cluster.obey()
    cluster.apply(toyJob('web', { count: 3 }, { resources: { memory: '4GiB' }, env: { A: 'b' } }))
    for (let round = 0; round < 10; round += 1) {
      cluster.step('web')
      cluster.obey()
    }
    assert.deepEqual(
      cluster.live('web').map(({ version }) => version),
      [2, 2],
    )
  })

  test('fewer copies: the highest slots stop, at once, and an update goes on for the others', () => {
    const cluster = running(clusterOf(4), { count: 10 })
    cluster.apply(toyJob('web', { count: 5 }, gigabyte))
    const made = cluster.plan('web')
    assert.deepEqual(stopped(made), [9, 8, 7, 6, 5])
    assert.deepEqual(kinds(made), { place: 0, stop: 5, keep: 5 })
    cluster.converge()
    assert.equal(cluster.live('web').length, 5)
  })

  test('a replaced copy goes back to its machine when others are no better', () => {
    const cluster = running(clusterOf(20), { count: 3 })
    const before = cluster.places('web')
    cluster.apply(toyJob('web', { count: 3 }, { ...gigabyte, env: { A: 'b' } }))
    cluster.converge()
    assert.deepEqual(cluster.places('web'), before)
  })

  test('a copy with volumes goes back to the machine that has them, even after a failure there', () => {
    const cluster = clusterOf(6)
    cluster.apply(toyJob('db', { volumes: { data: {} } }, { mounts: [{ volume: 'data', to: '/data' }] }))
    cluster.converge()
    const [home] = cluster.places('db')
    assert.ok(home)
    const crowded = cluster.apply(toyJob('noise', { constraints: [`node == ${home}`], count: 6 }, gigabyte))
    cluster.converge()
    assert.equal(cluster.live(crowded.name).length, 6)
    const db = cluster.newest('db', 0)
    assert.ok(db)
    cluster.end(db, 'failed')
    cluster.now += 60_000
    cluster.step('db')
    assert.deepEqual(cluster.places('db'), [home])
  })

  test('stopping a job stops every copy, and later nothing is placed', () => {
    const cluster = running(clusterOf(2), { count: 3 })
    cluster.stopJob('web')
    assert.deepEqual(kinds(cluster.plan('web')), { place: 0, stop: 3, keep: 0 })
    cluster.converge()
    cluster.addNode('new')
    const after = cluster.plan('web')
    assert.deepEqual(after.moves, [])
    assert.equal(after.settled, true)
    assert.equal(cluster.live().length, 0)
  })
})

describe('failing', () => {
  test('a failed copy is tried again after a pause, on another machine', () => {
    const cluster = clusterOf(2)
    cluster.addNode('large', { cores: 64, memory: 256 * GiB })
    running(cluster, { count: 1, reschedule: { delay: '10s' } })
    const failed = cluster.newest('web', 0)
    assert.equal(failed?.node, cluster.named('large').id, 'the least loaded machine comes first')
    cluster.end(failed, 'failed')
    const pausing = cluster.plan('web')
    assert.deepEqual(pausing.moves, [])
    assert.equal(pausing.wakeAt, cluster.now + 10_000)
    cluster.now += 10_000
    cluster.step('web')
    assert.notEqual(cluster.newest('web', 0)?.node, failed.node)
  })

  test('where a copy failed it is tried again only when no other machine can take it', () => {
    const cluster = running(clusterOf(1), { count: 1, reschedule: { delay: 0 } })
    const failed = cluster.newest('web', 0)
    assert.ok(failed)
    cluster.end(failed, 'failed')
    cluster.step('web')
    assert.equal(cluster.newest('web', 0)?.node, failed.node)
    assert.notEqual(cluster.newest('web', 0)?.id, failed.id)
  })

  test('a machine on which copies of a job fail again and again comes last for all its copies', () => {
    const cluster = clusterOf(3)
    cluster.addNode('bad', { cores: 64, memory: 256 * GiB })
    const bad = cluster.named('bad').id
    const failures = Array.from({ length: 5 }, (_, index) => ({
      allocation: cluster.seed as never,
      node: bad,
      at: cluster.now - index * 1000,
      message: 'broken disk',
    }))
    cluster.apply(toyJob('web', { count: 6 }))
    cluster.putSlot({ job: 'web', index: 0, allocation: null, failures, failed: 5, notBefore: 0, completedRound: null })
    cluster.step('web')
    assert.ok(!cluster.places('web').includes('bad'))
  })

  test('a copy that failed too often stays down and says what happened', () => {
    const cluster = running(clusterOf(2), { count: 2, reschedule: { attempts: 0 } })
    const failed = cluster.newest('web', 1)
    assert.ok(failed)
    cluster.end(failed, 'failed')
    cluster.now += 3_600_000
    const made = cluster.plan('web')
    assert.deepEqual(made.moves, [])
    assert.equal(made.wakeAt, null)
    assert.equal(
      made.blocked,
      'copy 1 of "web" failed once, at last with "exit code 1", and is not tried again; change the job and apply it',
    )
  })

  test('a due copy without room keeps its history, and room brings it back', () => {
    const cluster = running(clusterOf(1), { count: 1, reschedule: { delay: '1s' } }, { resources: { memory: '5GiB' } })
    const failed = cluster.newest('web', 0)
    assert.ok(failed)
    cluster.end(failed, 'failed')
    cluster.changeNode('n0', { eligible: false })
    cluster.now += 1000
    assert.match(cluster.step('web').blocked, /1 is closed to new work/)
    assert.equal([...cluster.slots('web')][0]?.failures.length, 1)
    cluster.changeNode('n0', { eligible: true })
    assert.equal(kinds(cluster.step('web')).place, 1)
  })

  test('a batch copy that ended well is not run again, not even when its machine is lost, but in the next round', () => {
    const cluster = clusterOf(2)
    cluster.apply(toyJob('batch', { type: 'batch', count: 2 }))
    cluster.step('batch')
    for (const each of cluster.live('batch')) cluster.end(each, 'complete')
    assert.deepEqual(cluster.plan('batch').moves, [])
    assert.equal(cluster.plan('batch').settled, true)
    cluster.loseNode('n0')
    assert.deepEqual(cluster.plan('batch').moves, [])
    cluster.apply(toyJob('batch', { type: 'batch', count: 2 }))
    assert.equal(kinds(cluster.plan('batch')).place, 2)
  })

  test('the copies of a lost machine start elsewhere', () => {
    const cluster = running(clusterOf(3), { count: 3 })
    cluster.loseNode('n1')
    assert.equal(kinds(cluster.step('web')).place, 1)
    assert.ok(!cluster.places('web').includes('n1'))
    assert.equal(cluster.live('web').length, 3)
  })

  test('a stopping copy keeps its room and its port until it has ended', () => {
    const cluster = running(clusterOf(1), { ports: { http: 80 } })
    cluster.stopJob('web')
    cluster.step('web')
    cluster.apply(toyJob('next', { ports: { http: 80 } }))
    assert.match(cluster.step('next').blocked, /has port 80 in use/)
    cluster.obey()
    assert.equal(kinds(cluster.step('next')).place, 1)
  })
})

describe('moving', () => {
  const drain = (cluster: ToyCluster, name: string, deadline: number | null = null) =>
    cluster.changeNode(name, { eligible: false, drain: { since: cluster.now, deadline } })

  test('a draining machine gives up one copy at a time, the next when the replacement is healthy', () => {
    const cluster = running(clusterOf(1, { cores: 64 }), { count: 3 })
    cluster.addNode('fresh')
    drain(cluster, 'n0')
    const made = cluster.step('web')
    assert.deepEqual(stopped(made), [0])
    assert.equal(made.later, 2)
    cluster.obey()
    assert.deepEqual(kinds(cluster.step('web')), { place: 1, stop: 0, keep: 0 })
    assert.deepEqual(cluster.plan('web').moves, [])
    cluster.obey()
    assert.deepEqual(stopped(cluster.step('web')), [1])
    cluster.converge()
    assert.deepEqual(cluster.places('web'), ['fresh', 'fresh', 'fresh'])
  })

  test('when the deadline of a drain has passed everything leaves at once', () => {
    const cluster = running(clusterOf(1, { cores: 64 }), { count: 3 })
    drain(cluster, 'n0', cluster.now + 60_000)
    assert.equal(cluster.plan('web').wakeAt !== null, true)
    cluster.now += 60_000
    assert.equal(kinds(cluster.step('web')).stop, 3)
  })

  test('a batch copy may finish on a draining machine until the deadline', () => {
    const cluster = running(clusterOf(2), { type: 'batch', count: 2 })
    drain(cluster, 'n0', cluster.now + 60_000)
    const made = cluster.plan('web')
    assert.deepEqual(made.moves, [])
    assert.equal(made.wakeAt, cluster.now + 60_000)
    cluster.now += 60_000
    assert.equal(kinds(cluster.step('web')).stop, 1)
    cluster.converge()
    assert.deepEqual(cluster.places('web'), ['n1', 'n1'])
  })

  test('a copy whose constraint stopped holding is moved, and told which one', () => {
    const cluster = new ToyCluster()
    cluster.addNode('a', {}, { disk: 'ssd' })
    running(cluster, { constraints: ['label.disk == ssd'] })
    cluster.addNode('b', {}, { disk: 'ssd' })
    cluster.changeNode('a', { labels: {} })
    const made = cluster.step('web')
    assert.equal(
      made.moves[0]?.kind === 'stop' && made.moves[0].reason,
      '"label.disk == ssd" does not hold for node "a" any more',
    )
    cluster.converge()
    assert.deepEqual(cluster.places('web'), ['b'])
  })

  test('a driver that falls ill does not move what already runs', () => {
    const cluster = running(clusterOf(2), { count: 2 })
    cluster.changeNode('n0', { facts: toyFacts('n0', { drivers: {} }) })
    assert.deepEqual(cluster.plan('web').moves, [])
  })

  test('a silent machine keeps its copies until it is lost', () => {
    const cluster = running(clusterOf(2), { count: 2 })
    cluster.changeNode('n0', { phase: 'silent' })
    assert.deepEqual(cluster.plan('web').moves, [])
  })
})
