import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { commandLine, type JobInput, JobSpec, rescheduleAttempts, restartAttempts } from './job.ts'
import { MiB } from './quantity.ts'

const small: JobInput = { name: 'web', tasks: { web: { driver: 'process', command: 'true' } } }
const mistakes = (input: unknown) => JSON.stringify(JobSpec.safeParse(input).error?.issues ?? []).replaceAll('\\"', '"')

test('the smallest job is a name and a task, and every default is filled in', () => {
  const job = JobSpec.parse(small)
  assert.equal(job.type, 'service')
  assert.equal(job.count, 1)
  assert.equal(job.tasks.web?.resources.memory, 64 * MiB)
  assert.equal(job.tasks.web?.kill.signal, 'SIGTERM')
  assert.deepEqual(commandLine({ command: ['a', 'b'], args: ['c'] }), ['a', 'b', 'c'])
  assert.deepEqual(commandLine({ command: 'a b', args: ['c'] }), ['a b', 'c'])
})

test('what a person writes short becomes the canonical form', () => {
  const job = JobSpec.parse({
    ...small,
    ports: { http: 'dynamic', admin: 9000, inner: { to: 80 } },
    constraints: ['os == linux'],
    tasks: {
      web: { driver: 'process', command: 'true', env: { A: 1, B: true }, resources: { cpu: '1.5GHz', memory: '1GiB' } },
    },
  })
  assert.deepEqual(job.ports, { http: {}, admin: { static: 9000 }, inner: { to: 80 } })
  assert.deepEqual(job.constraints, [{ subject: 'os', operator: '==', values: ['linux'] }])
  assert.deepEqual(job.tasks.web?.env, { A: '1', B: 'true' })
  assert.equal(job.tasks.web?.resources.cpu, 1500)
})

const script = { type: 'script', command: ['true'] }

test('what fits no single field is said too', () => {
  const cases: [unknown, RegExp][] = [
    [{ ...small, tasks: {} }, /at least one task/],
    [{ ...small, tasks: { a: { driver: 'process', command: 'x', role: 'sidecar' } } }, /a task with role "main"/],
    [{ ...small, tasks: { a: { driver: 'container' } } }, /needs an image/],
    [{ ...small, tasks: { a: { driver: 'process' } } }, /needs a command/],
    [{ ...small, tasks: { a: { driver: 'process', command: 'x', image: 'y' } } }, /has no image/],
    [{ ...small, ports: { a: 80, b: 80 } }, /already taken by "a"/],
    [
      {
        ...small,
        ports: { http: 'dynamic' },
        tasks: { a: { driver: 'process', command: 'x', checks: [{ type: 'tcp', port: 'htp' }] } },
      },
      /no port is named "htp"; the ports are http/,
    ],
    [{ ...small, tasks: { a: { driver: 'process', command: 'x', resources: { cpu: 1, cores: 1 } } } }, /not both/],
    [
      { ...small, tasks: { a: { driver: 'process', command: 'x', resources: { cpu: `${'9'.repeat(400)}MHz` } } } },
      /is not a CPU speed/,
    ],
    [{ ...small, restart: { delay: 10 } }, /bare number is milliseconds/],
    [{ ...small, restart: { interval: 0 } }, /must be at least 100ms/],
    [{ ...small, update: { healthyAfter: 10 } }, /bare number is milliseconds/],
    [{ ...small, tasks: { a: { driver: 'process', command: 'x', kill: { grace: 10 } } } }, /bare number/],
    ...(['interval', 'timeout'] as const).map((field): [unknown, RegExp] => [
      { ...small, tasks: { a: { driver: 'process', command: 'x', checks: [{ ...script, [field]: 0 }] } } },
      /must be at least 100ms/,
    ]),
    [{ ...small, tasks: { a: { driver: 'container', image: 'x', mounts: [{ host: '/x' }] } } }, /where to mount it/],
    [
      { ...small, tasks: { a: { driver: 'process', command: 'x', resources: { memory: 256 } } } },
      /bare number is bytes/,
    ],
    [
      { ...small, tasks: { a: { driver: 'process', command: 'x', artifacts: [{ url: 'http://x', to: '../y' }] } } },
      /inside the task directory/,
    ],
    [{ ...small, tasks: { a: { driver: 'process', command: 'x', mounts: [{ to: '/x' }] } } }, /either volume or host/],
  ]
  for (const [input, expected] of cases) assert.match(mistakes(input), expected)
})

test('no pause at all is a pause that people may ask for', () => {
  const task = { driver: 'process', command: 'x', kill: { grace: 0 }, checks: [{ ...script, grace: 0 }] }
  const restart = { delay: 0, maxDelay: 0 }
  const job = JobSpec.parse({ ...small, restart, reschedule: restart, update: { healthyAfter: 0 }, tasks: { a: task } })
  assert.deepEqual([job.restart.delay, job.tasks['a']?.kill.grace, job.tasks['a']?.checks[0]?.grace], [0, 0, 0])
})

test('restarts and new places are counted by type unless the job says otherwise', () => {
  const service = JobSpec.parse(small)
  const batch = JobSpec.parse({ ...small, type: 'batch' })
  assert.deepEqual([restartAttempts(service), restartAttempts(batch)], [2, 3])
  assert.deepEqual([rescheduleAttempts(service), rescheduleAttempts(batch)], [Number.POSITIVE_INFINITY, 1])
  const never = JobSpec.parse({ ...small, restart: { attempts: 0 }, reschedule: { attempts: 0 } })
  assert.deepEqual([restartAttempts(never), rescheduleAttempts(never)], [0, 0])
})

const name = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?$/)
const size = fc.oneof(
  fc.integer({ min: MiB, max: 2 ** 40 }),
  fc.integer({ min: 1, max: 900 }).map((n) => `${n}MiB`),
)
const duration = fc.oneof(
  fc.integer({ min: 100, max: 1e9 }),
  fc.integer({ min: 1, max: 900 }).map((n) => `${n}s`),
)
const some = <T>(value: fc.Arbitrary<T>) => fc.dictionary(name, value, { maxKeys: 3 })
const task = fc.record(
  {
    driver: fc.constant('process'),
    command: fc.oneof(
      fc.string({ minLength: 1 }),
      fc.array(fc.string({ minLength: 0 }), { minLength: 1, maxLength: 3 }),
    ),
    args: fc.array(fc.string(), { maxLength: 3 }),
    env: fc.dictionary(fc.stringMatching(/^[A-Z_][A-Z0-9_]{0,8}$/), fc.oneof(fc.string(), fc.integer(), fc.boolean()), {
      maxKeys: 3,
    }),
    resources: fc.record({ cpu: fc.oneof(fc.nat(), fc.constant('2GHz')), memory: size }, { requiredKeys: [] }),
    templates: fc.array(fc.record({ content: fc.string(), to: name }), { maxLength: 2 }),
    mounts: fc.array(fc.record({ volume: name, to: name.map((path) => `/${path}`) }), { maxLength: 2 }),
    checks: fc.array(
      fc.record(
        { type: fc.constant('script'), command: fc.constant(['true']), interval: duration },
        { requiredKeys: ['type', 'command'] },
      ),
      { maxLength: 2 },
    ),
    kill: fc.record({ grace: duration }, { requiredKeys: [] }),
    config: fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 2 }),
  },
  { requiredKeys: ['driver', 'command'] },
)
const job = fc.record(
  {
    name,
    type: fc.constantFrom('service', 'batch'),
    count: fc.nat({ max: 50_000 }),
    labels: fc.dictionary(fc.string({ maxLength: 20 }), fc.string({ maxLength: 20 }), { maxKeys: 3 }),
    constraints: fc.array(
      fc.constantFrom('os == linux', 'label.a in [x, y]', 'label.gpu exists', 'attr.k version >=5'),
      { maxLength: 3 },
    ),
    ports: some(fc.oneof(fc.constant('dynamic'), fc.record({ to: fc.integer({ min: 1, max: 65_535 }) }))),
    volumes: some(fc.record({ size }, { requiredKeys: [] })),
    restart: fc.record({ attempts: fc.nat({ max: 1000 }), delay: duration }, { requiredKeys: [] }),
    update: fc.record({ healthyAfter: duration }, { requiredKeys: [] }),
    tasks: some(task).filter((tasks) => Object.keys(tasks).length > 0),
  },
  { requiredKeys: ['name', 'tasks'] },
)

test('the canonical form of any job parses to itself, also after a trip through JSON', () => {
  fc.assert(
    fc.property(job, (input) => {
      const first = JobSpec.safeParse(input)
      assert.ok(first.success, JSON.stringify(first.error?.issues))
      assert.deepEqual(JobSpec.parse(first.data), first.data)
      assert.deepEqual(JobSpec.parse(JSON.parse(JSON.stringify(first.data))), JSON.parse(JSON.stringify(first.data)))
    }),
    { numRuns: 200 },
  )
})

test('anything at all is a job or a list of mistakes', () => {
  fc.assert(fc.property(fc.anything(), (value) => typeof JobSpec.safeParse(value).success === 'boolean'))
  fc.assert(
    fc.property(
      job,
      fc.anything(),
      (input, value) => typeof JobSpec.safeParse({ ...input, tasks: value }).success === 'boolean',
    ),
  )
})
