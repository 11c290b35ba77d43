import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Allocation } from '../model/allocation.ts'
import { JobSpec } from '../model/job.ts'
import { MiB } from '../model/units.ts'
import { askOf, fit, usageOf, withAllocation } from './fit.ts'
import { ToyCluster, toyJob } from './toy-cluster.ts'

const GiB = 2 ** 30
const cluster = new ToyCluster()
const node = cluster.addNode('a', {
  cores: 4,
  coreMHz: 2893.45,
  memory: 4 * GiB,
  disk: 10 * GiB,
  counters: { gpu: 2 },
  ports: [30_000, 30_002],
})
const empty = () => usageOf([], () => undefined)

function task(role: 'main' | 'sidecar' | 'prestart' | 'poststop', resources: object) {
  return { driver: 'fake' as const, role, resources }
}

test('a copy asks for the most that any moment of its life needs, and not for the sum of all its tasks', () => {
  const ask = askOf(
    JobSpec.parse({
      name: 'web',
      tasks: {
        migrate: task('prestart', { memory: 3 * GiB, cores: 1, disk: GiB, counters: { gpu: 2 } }),
        seed: task('prestart', { memory: 2 * GiB, cores: 1.5 }),
        web: task('main', { memory: GiB, cores: 1, disk: GiB }),
        proxy: task('sidecar', { memory: GiB, cores: 0.25, counters: { gpu: 1 } }),
        tidy: task('poststop', { memory: 64 * MiB, cores: 1.25 }),
      },
    }),
  )
  assert.equal(ask.memory, 3 * GiB)
  assert.equal(ask.cores, 1.5)
  assert.equal(ask.disk, 2 * GiB, 'task directories stay until the end, so disk adds up')
  assert.deepEqual(ask.counters, [{ name: 'gpu', count: 2 }])
})

test('quarter cores fill a machine exactly, whatever the MHz of its cores', () => {
  const used = empty()
  const ask = askOf(JobSpec.parse(toyJob('web', {}, { resources: { cores: 0.25, memory: 0 } })))
  for (let copy = 0; copy < 16; copy += 1) {
    assert.equal(fit(node, used, ask), undefined, `copy ${copy} should fit`)
    withAllocation(used, ask, { id: `${copy}` as Allocation['id'], ports: {} })
  }
  assert.deepEqual(fit(node, used, ask)?.words[0], 'lacks CPU')
})

const refusals: Record<string, { job: object; resources: object; says: string; needs?: string; free?: string }> = {
  memory: { job: {}, resources: { memory: 5 * GiB }, says: 'lacks memory', needs: '5 GiB', free: '4 GiB' },
  disk: { job: {}, resources: { disk: 11 * GiB }, says: 'lacks disk', needs: '11 GiB', free: '10 GiB' },
  cores: { job: {}, resources: { cores: 5 }, says: 'lacks CPU', needs: '5 cores', free: '4 cores' },
  MHz: { job: {}, resources: { cpu: 20_000 }, says: 'lacks CPU', needs: '20000 MHz', free: '11574 MHz' },
  counters: { job: {}, resources: { counters: { gpu: 3 } }, says: 'lacks gpu', needs: '3', free: '2' },
  'dynamic ports': {
    job: { ports: { a: 'dynamic', b: 'dynamic', c: 30_001, d: 'dynamic' } },
    resources: {},
    says: 'lacks dynamic ports',
    needs: '3',
    free: '2',
  },
}

for (const [what, { job, resources, says, needs, free }] of Object.entries(refusals)) {
  test(`a node that is too small says so: ${what}`, () => {
    const refusal = fit(node, empty(), askOf(JobSpec.parse(toyJob('web', job, { resources }))))
    assert.equal(refusal?.words[0], says)
    assert.equal(refusal?.short?.format(refusal.short.needs), needs)
    assert.equal(refusal?.short?.format(refusal.short.free), free)
  })
}

test('a port that somebody holds is refused, asked for by number or picked while planning', () => {
  const spec = JobSpec.parse(toyJob('web', { ports: { http: 80 } }))
  const used = empty()
  withAllocation(used, askOf(spec), { id: 'x' as Allocation['id'], ports: { http: 80, other: 30_000 } })
  assert.equal(fit(node, used, askOf(spec))?.words[0], 'has port 80 in use')
  const dynamic = askOf(JobSpec.parse(toyJob('api', { ports: { http: 'dynamic' } })))
  assert.equal(fit(node, used, dynamic, { http: 30_001 }), undefined)
  assert.equal(fit(node, used, dynamic, { http: 30_000 })?.words[0], 'has port 30000 in use')
})

test('a node that has not said what it is takes nothing', () => {
  const refusal = fit({ ...node, facts: null }, empty(), askOf(JobSpec.parse(toyJob('web'))))
  assert.equal(refusal?.words[0], 'has not said yet what it is')
})
