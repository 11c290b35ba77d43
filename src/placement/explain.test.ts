import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explainPlan } from './explain.ts'
import { ToyCluster, toyJob } from './toy-cluster.ts'

test('a dry run counts what would happen and says why, slot by slot, and changes nothing', () => {
  const cluster = new ToyCluster()
  cluster.addNode('a')
  cluster.apply(toyJob('web', { count: 3 }))
  cluster.converge()
  cluster.addNode('b')
  cluster.changeNode('a', { eligible: false, drain: { since: cluster.now, deadline: null } })
  cluster.apply(toyJob('web', { count: 2 }))
  const explained = explainPlan(cluster.plan('web'), cluster)
  assert.deepEqual(explained, {
    place: 0,
    stop: 2,
    keep: 1,
    later: 1,
    sentences: [
      'web/0 would move off node "a": node "a" is draining',
      'web/1 would go on untouched on node "a" as version 2',
      'web/2 would stop on node "a": job "web" was scaled down to 2',
    ],
  })
  assert.equal(
    cluster.live('web').every(({ desired, version }) => desired === 'run' && version === 1),
    true,
  )
})

test('a dry run says where copies would start and what became of the ones before', () => {
  const cluster = new ToyCluster()
  cluster.addNode('a')
  cluster.apply(toyJob('web', { count: 5, reschedule: { delay: 0 } }))
  cluster.converge()
  cluster.apply(toyJob('web', { count: 6, reschedule: { delay: 0 } }))
  const ends = ['failed', 'lost', 'complete', 'stopped'] as const
  for (const [index, phase] of ends.entries()) {
    const allocation = cluster.newest('web', index)
    assert.ok(allocation)
    cluster.end(allocation, phase)
  }
  assert.deepEqual(explainPlan(cluster.plan('web'), cluster).sentences, [
    'web/0 would be tried again on node "a": it failed on node "a"',
    'web/1 would start anew on node "a": it was lost with node "a"',
    'web/2 would run again on node "a": it ended on node "a"',
    'web/3 would start on node "a": it was stopped on node "a"',
    'web/4 would go on untouched on node "a" as version 2',
    'web/5 would start on node "a"',
  ])
})

test('an update is told as a replacement with what changed', () => {
  const cluster = new ToyCluster()
  cluster.addNode('a')
  cluster.apply(toyJob('web'))
  cluster.converge()
  cluster.apply(toyJob('web', {}, { env: { A: 'b' } }))
  assert.deepEqual(explainPlan(cluster.plan('web'), cluster).sentences, [
    'web/0 would be replaced on node "a": version 2 of "web" replaces it: tasks.main.env.A changed',
  ])
})
