import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type JobInput, JobSpec } from '../model/job.ts'
import { diffSpecs, needsRestart } from './diff.ts'
import { toyJob } from './toy-cluster.ts'

const before = JobSpec.parse(
  toyJob('web', { count: 2, constraints: ['os == linux'] }, { args: ['a', 'b'], env: { COLOR: 'red', SIZE: '1' } }),
)
const changed = (job: Partial<JobInput>, task: object = {}) =>
  JobSpec.parse(
    toyJob(
      'web',
      { count: 2, constraints: ['os == linux'], ...job },
      { args: ['a', 'b'], env: { COLOR: 'red', SIZE: '1' }, ...task },
    ),
  )

test('a diff names what changed, was added and was removed, and nothing else', () => {
  const after = changed(
    { count: 3, ports: { http: 80 } },
    { args: ['a'], env: { COLOR: 'blue', SIZE: '1', MODE: 'x' } },
  )
  assert.deepEqual(diffSpecs(before, after), [
    { path: 'count', before: 2, after: 3 },
    { path: 'ports.http', before: undefined, after: { static: 80 } },
    { path: 'tasks.main.args[1]', before: 'b', after: undefined },
    { path: 'tasks.main.env.COLOR', before: 'red', after: 'blue' },
    { path: 'tasks.main.env.MODE', before: undefined, after: 'x' },
  ])
  assert.deepEqual(diffSpecs(before, changed({})), [])
})

const inPlace: Record<string, Partial<JobInput>> = {
  'the count': { count: 9 },
  'the priority': { priority: 90 },
  labels: { labels: { team: 'x' } },
  constraints: { constraints: ['os == linux', 'arch == amd64'] },
  'restart, reschedule and update policies': {
    restart: { attempts: 5 },
    reschedule: { attempts: 5 },
    update: { parallel: 5 },
  },
}

for (const [what, change] of Object.entries(inPlace)) {
  test(`a running copy lives on when only this changes: ${what}`, () => {
    assert.notDeepEqual(diffSpecs(before, changed(change)), [])
    assert.deepEqual(needsRestart(before, changed(change)), [])
  })
}

const restarts: Record<string, { change: Partial<JobInput>; task: object; path: string }> = {
  env: { change: {}, task: { env: { COLOR: 'blue', SIZE: '1' } }, path: 'tasks.main.env.COLOR' },
  'the image': { change: {}, task: { image: 'alpine' }, path: 'tasks.main.image' },
  memory: { change: {}, task: { resources: { memory: '1GiB' } }, path: 'tasks.main.resources.memory' },
  ports: { change: { ports: { http: 'dynamic' } }, task: {}, path: 'ports.http' },
  'another task': {
    change: { tasks: { main: before.tasks['main'] ?? { driver: 'fake' }, extra: { driver: 'fake' } } },
    task: {},
    path: 'tasks.extra',
  },
}

for (const [what, { change, task, path }] of Object.entries(restarts)) {
  test(`a running copy is replaced when this changes: ${what}`, () => {
    assert.deepEqual(needsRestart(before, changed({ ...change, count: 7 }, task)), [path])
  })
}
