import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { test } from 'node:test'
import { Fault } from '../model/fault.ts'
import { encodeFrame, frame } from '../wire/frames.ts'
import { type Answers, testCli } from './testing.ts'

const now = 1_000_000_000_000
const allocation = (id: string, slot: number, more: { message?: string; phase?: string; healthy?: boolean } = {}) => ({
  id,
  job: 'web',
  version: 2,
  slot,
  node: 'n000000000000001',
  generation: 0,
  desired: 'run',
  ports: { http: 20_000 + slot },
  phase: 'running',
  healthy: true,
  tasks: { main: { phase: 'running', restarts: slot, pid: 100 + slot } },
  createdAt: now - 90_000,
  changedAt: now,
  ...more,
})
const a0 = allocation('a000000000000000', 0)
const a1 = allocation('b000000000000001', 1, { phase: 'failed', healthy: false, message: 'it fell \u001b[2J over' })
const job = {
  name: 'web',
  type: 'service',
  count: 2,
  priority: 50,
  version: 2,
  stopped: false,
  blocked: 'no node can take "web"',
  labels: {},
  createdAt: now - 200_000,
  changedAt: now - 100_000,
  state: 'blocked',
  copies: { wanted: 2, live: 1, healthy: 1, complete: 0, failed: 1, old: 0 },
}
const slot = (index: number, id: string) => ({
  job: 'web',
  index,
  allocation: id,
  failures: [],
  failed: 0,
  notBefore: 0,
  completed: false,
})
const node = {
  id: 'n000000000000001',
  name: 'mac-1',
  phase: 'ready',
  eligible: false,
  drain: null,
  labels: { rack: 'a' },
  facts: null,
  since: now - 5000,
  joinedAt: now,
  usage: { allocations: 1, cpuMHz: 0, memory: 0, disk: 0 },
}
const answers: Answers = {
  'GET /v1/allocations': () => ({ allocations: [a1, a0], next: null, index: 9 }),
  'GET /v1/nodes': () => ({ nodes: [node], next: null, index: 9 }),
  'GET /v1/nodes/mac-1': () => ({ node, index: 9 }),
  'GET /v1/jobs': () => ({ jobs: [job], next: null, index: 9 }),
  'GET /v1/jobs/web': () => ({
    job,
    spec: {},
    slots: [slot(0, a0.id), slot(1, a1.id)],
    allocations: [a0, a1],
    index: 9,
  }),
  'GET /v1/events': () => ({
    events: [{ id: 'e1', at: now, level: 'error', kind: 'allocation.failed', message: 'it fell\nover', job: 'web' }],
    index: 9,
  }),
}
const notFound = () => {
  throw new Fault('not_found', 'there is no such thing')
}

test('ps says what runs where, by job and copy', async () => {
  await using shell = await testCli({ answers, now })
  const { code, out } = await shell.run('ps')
  assert.equal(code, 0)
  assert.deepEqual(out.split('\n'), [
    'ALLOCATION        JOB  COPY  NODE   STATE    RESTARTS  PORTS       AGE',
    'a000000000000000  web  0     mac-1  running  0         http:20000  90s',
    'b000000000000001  web  1     mac-1  failed   1         http:20001  90s',
    '',
  ])
})

test('everything that prints can be asked for JSON, YAML or names', async () => {
  await using shell = await testCli({ answers, now })
  assert.equal((await shell.run('ps', '-o', 'name')).out, 'a000000000000000\nb000000000000001\n')
  assert.equal(JSON.parse((await shell.run('ps', '-o', 'json')).out)[1].message, a1.message)
  assert.match((await shell.run('jobs', '-o', 'yaml')).out, /^- name: web\n {2}type: service\n/)
  assert.equal((await shell.run('jobs', '-o', 'name')).out, 'web\n')
  assert.equal((await shell.run('nodes', '-o', 'name')).out, 'mac-1\n')
})

test('a list that comes in pages is one list', async () => {
  const pages: Answers = {
    ...answers,
    'GET /v1/jobs': ({ path }) => {
      const after = new URL(path, 'https://x').searchParams.get('after')
      return {
        jobs: [{ ...job, name: after ?? 'first' }],
        next: after === 'third' ? null : after ? 'third' : 'second',
        index: 9,
      }
    },
  }
  await using shell = await testCli({ answers: pages, now })
  assert.equal((await shell.run('jobs', '-o', 'name')).out, 'first\nsecond\nthird\n')
})

test('a job is shown with its copies, what is wrong, and what happened', async () => {
  await using shell = await testCli({ answers, now })
  const { out } = await shell.run('status', 'web')
  assert.match(out, /state +blocked/)
  assert.match(out, /copies +1\/2 healthy/)
  assert.match(out, /blocked +no node can take "web"/)
  assert.match(out, /1 +b000000000000001 +mac-1 +failed +101 +http:20001 +it fell {2}\[2J over\n/)
  assert.match(out, /Z {2}it fell over\n/)
  assert.ok(!out.includes('\u001b'))
})

test('a node that is closed to new work says so', async () => {
  await using shell = await testCli({ answers, now })
  assert.match((await shell.run('nodes')).out, /mac-1 +n000000000000001 +ready, closed +/)
  assert.match((await shell.run('node', 'status', 'mac-1')).out, /label rack +a/)
})

test('the exit code says what kind of thing went wrong', async () => {
  const codes: [Fault, number][] = [
    [new Fault('not_found', 'x'), 3],
    [new Fault('denied', 'x'), 4],
    [new Fault('unauthenticated', 'x'), 4],
    [new Fault('unavailable', 'x'), 5],
    [new Fault('conflict', 'x'), 6],
    [new Fault('exhausted', 'x'), 1],
    [new Fault('internal', 'x'), 1],
    [new Fault('invalid', 'x'), 2],
  ]
  for (const [fault, expected] of codes) {
    const failing: Answers = {
      'GET /v1/jobs': () => {
        throw fault
      },
    }
    await using shell = await testCli({ answers: failing })
    const { code, err } = await shell.run('jobs')
    assert.equal(code, expected, fault.code)
    assert.equal(err, 'tutti: x\n')
  }
})

test('a word that is neither a job nor an allocation is told with where to look', async () => {
  await using shell = await testCli({ answers: { 'GET /v1/jobs/wbe': notFound, 'GET /v1/allocations/wbe': notFound } })
  for (const word of ['wbe', '../x', 'UPPER']) {
    const { code, err } = await shell.run('logs', word)
    assert.equal(code, 3)
    assert.match(err, new RegExp(`no job named "${word.replaceAll('.', '\\.')}" and no allocation`))
  }
})

const both = (...parts: [number, string][]) =>
  Buffer.concat(parts.map(([kind, text]) => encodeFrame(kind as 1 | 2, text)))

test('output of one allocation is its very bytes, each stream to its own', async () => {
  const single: Answers = {
    'GET /v1/jobs/b0': notFound,
    'GET /v1/allocations/b0': () => ({ allocation: a1, nodeName: 'mac-1', index: 9 }),
    [`GET /v1/allocations/${a1.id}/logs`]: () => both([frame.stdout, 'no newline'], [frame.stderr, 'oops\n']),
  }
  await using shell = await testCli({ answers: single })
  const { code, out, err } = await shell.run('logs', 'b0')
  assert.deepEqual({ code, out, err }, { code: 0, out: 'no newline', err: 'oops\n' })
})

test('output of several copies keeps its lines whole and says whose they are', async () => {
  const live = { ...a1, phase: 'running' }
  const several: Answers = {
    ...answers,
    'GET /v1/jobs/web': () => ({ job, spec: {}, slots: [], allocations: [live, a0], index: 9 }),
    [`GET /v1/allocations/${a0.id}/logs`]: () => both([frame.stdout, 'one\ntw'], [frame.stdout, 'o\n']),
    [`GET /v1/allocations/${a1.id}/logs`]: () => both([frame.stdout, 'end']),
  }
  await using shell = await testCli({ answers: several })
  const { out } = await shell.run('logs', 'web')
  assert.deepEqual(out.split('\n').sort(), ['', '0 | one', '0 | two', '1 | end'])
})

test('a plan says what differs and what would happen', async () => {
  const plan: Answers = {
    'POST /v1/jobs/plan': ({ body }) => ({
      job: JSON.parse(body ?? '').spec.name,
      version: 3,
      changes: [
        { path: 'count', before: 1, after: 2 },
        { path: 'labels.a', after: 'b' },
      ],
      moves: { place: 1, stop: 0, keep: 1, nodes: { 'mac-1': 1 } },
      blocked: '',
      index: 9,
    }),
  }
  await using shell = await testCli({ answers: plan })
  shell.stdin.end('name: web\ntasks: { web: { driver: process, command: x } }\n')
  const { out } = await shell.run('plan', '-')
  assert.equal(
    out,
    'web: version 3 becomes 4\n  ~ count: 1 → 2\n  + labels.a: b\n  1 to start (1 on mac-1), 0 to stop, 1 to go on\n',
  )
})

test('a token is alone on standard output, so that it can be kept in a file', async () => {
  const token = { id: 't000000000000001', name: 'ci', roles: ['compute:read'], createdAt: now, expiresAt: null }
  let asked: unknown
  const create: Answers = {
    'POST /v1/tokens': ({ body }) => {
      asked = JSON.parse(body ?? '')
      return { token, secret: 'tutti_secret' }
    },
  }
  await using shell = await testCli({ answers: create })
  const { out, err } = await shell.run(
    'token',
    'create',
    'ci',
    '--role',
    'compute:write,compute:read',
    '--expires',
    '30d',
  )
  assert.equal(out, 'tutti_secret\n')
  assert.match(err, /does not expire; it is not shown again/)
  assert.deepEqual(asked, { name: 'ci', roles: ['compute:write', 'compute:read'], expiresInMs: 30 * 86_400_000 })
})

test('labels are set with key=value and removed with key-', async () => {
  let asked: unknown
  const label: Answers = {
    'PATCH /v1/nodes/mac-1': ({ body }) => {
      asked = JSON.parse(body ?? '')
      return { node, index: 9 }
    },
  }
  await using shell = await testCli({ answers: label })
  const { out } = await shell.run('node', 'label', 'mac-1', 'rack=a', 'gpu-')
  assert.deepEqual(asked, { labels: { rack: 'a', gpu: null } })
  assert.equal(out, 'labels of node "mac-1": rack=a\n')
})

/** A watch that says this and then ends. */
function watched(rows: { table: string; key: string; row: object }[]): Buffer {
  const events = rows.map((row) => `event: snapshot-row\ndata: ${JSON.stringify({ index: 9, ...row })}\n\n`)
  return Buffer.from(`${events.join('')}id: 9\nevent: snapshot-end\ndata: {"index":9}\n\n`)
}

test('a command run once passes on its output and its exit code', async () => {
  const done = { ...a0, phase: 'failed', tasks: { main: { phase: 'exited', restarts: 0, exitCode: 7 } } }
  let spec: { type: string; restart: { attempts: number }; tasks: { main: { command: string[] } } } | undefined
  const once: Answers = {
    'PUT /v1/jobs/mine': ({ body }) => {
      spec = JSON.parse(body ?? '').spec
      return { job: 'mine', version: 1, index: 5, changed: true }
    },
    'GET /v1/watch': () => watched([{ table: 'allocations', key: done.id, row: done }]),
    [`GET /v1/allocations/${a0.id}/logs`]: () => both([frame.stdout, 'hello\n'], [frame.stderr, 'bye\n']),
    [`GET /v1/allocations/${a0.id}`]: () => ({ allocation: done, nodeName: 'mac-1', index: 9 }),
  }
  await using shell = await testCli({ answers: once })
  const { code, out, err } = await shell.run('run', '--driver', 'process', '--name', 'mine', '--', 'sh', '-c', 'x')
  assert.deepEqual({ code, out, err }, { code: 7, out: 'hello\n', err: 'bye\n' })
  assert.equal(spec?.type, 'batch')
  assert.equal(spec?.restart.attempts, 0)
  assert.deepEqual(spec?.tasks.main.command, ['sh', '-c', 'x'])
})

test('a script of this directory travels with the job, and mistakes about it are told at once', async (t) => {
  let task: { command: string[]; templates: { content: string; to: string; mode: string }[] } | undefined
  const once: Answers = {
    'PUT /v1/jobs/mine': ({ body }) => {
      task = JSON.parse(body ?? '').spec.tasks.main
      return { job: 'mine', version: 1, index: 5, changed: true }
    },
  }
  const directory = await mkdtemp(join(tmpdir(), 'tutti-script-'))
  t.after(() => rm(directory, { recursive: true }))
  const path = (name: string) => relative(process.cwd(), join(directory, name))
  const text = '#!/bin/sh\necho "$HOME ${HOME} $${x}"\n'
  await writeFile(join(directory, 'build.sh'), text, { mode: 0o755 })
  await writeFile(join(directory, 'plain.sh'), text, { mode: 0o644 })
  await writeFile(join(directory, 'program'), Buffer.of(0x7f, 0xff, 0xfe), { mode: 0o755 })
  await using shell = await testCli({ answers: once })
  const run = (word: string) => shell.run('run', '--driver', 'process', '--name', 'mine', '-d', '--', word, 'a')
  assert.equal((await run(path('build.sh'))).code, 0)
  assert.deepEqual(task?.command, ['local/build.sh', 'a'])
  const [template] = task?.templates ?? []
  assert.equal(template?.mode, '0755')
  assert.equal(template?.content, '#!/bin/sh\necho "$HOME $${HOME} $$${x}"\n')
  for (const [name, sentence] of [
    ['plain.sh', /plain\.sh" is not executable; chmod \+x would help/],
    ['program', /cannot travel with the job/],
    ['nothing', /cannot read .*nothing: there is no such file here/],
  ] as const) {
    const { code, err } = await run(path(name))
    assert.equal(code, 2)
    assert.match(err, sentence)
  }
})

test('a command that nobody waits for any more does not run later', async () => {
  let stopped = 0
  const never: Answers = {
    'PUT /v1/jobs/mine': () => ({ job: 'mine', version: 1, index: 5, changed: true }),
    'GET /v1/watch': () => watched([{ table: 'jobs', key: 'mine', row: { ...job, name: 'mine' } }]),
    'POST /v1/jobs/mine/stop': () => {
      stopped += 1
      return { job: 'mine', index: 6 }
    },
  }
  await using shell = await testCli({ answers: never })
  const { code, err } = await shell.run('run', '--driver', 'process', '--name', 'mine', '--wait', '50ms', '--', 'true')
  assert.equal(code, 125)
  assert.equal(stopped, 1)
  assert.match(err, /it is stopped, so that it does not run later\ntutti: waited 50ms in vain: mine: /)
})

test('when Tutti fails rather than the command, the exit code is 125', async () => {
  await using shell = await testCli({ answers: {} })
  const { code, err } = await shell.run('run', '--driver', 'process', '--', 'true')
  assert.equal(code, 125)
  assert.match(err, /^tutti: /)
})

test('run waits until every copy is healthy, and says when the wait is over', async () => {
  const slots = [0, 1].map((index) => ({
    table: 'slots',
    key: `web/${index}`,
    row: slot(index, index === 0 ? a0.id : a1.id),
  }))
  const world = (second: object) =>
    watched([
      { table: 'jobs', key: 'web', row: { ...job, blocked: '' } },
      ...slots,
      { table: 'allocations', key: a0.id, row: a0 },
      { table: 'allocations', key: a1.id, row: { ...a1, ...second } },
    ])
  const applied = { 'PUT /v1/jobs/web': () => ({ job: 'web', version: 2, index: 5, changed: true }) }
  const text = 'name: web\ncount: 2\ntasks: { web: { driver: process, command: x } }\n'

  await using good = await testCli({
    answers: { ...applied, 'GET /v1/watch': () => world({ phase: 'running', healthy: true }) },
  })
  good.stdin.end(text)
  const fine = await good.run('run', '-')
  assert.deepEqual([fine.code, fine.out], [0, 'job "web" is at version 2\n'])
  assert.match(fine.err, /web: all copies run/)

  await using bad = await testCli({
    answers: { ...applied, 'GET /v1/watch': () => world({ phase: 'preparing', message: 'pulling' }) },
  })
  bad.stdin.end(text)
  const late = await bad.run('run', '--wait', '100ms', '-')
  assert.equal(late.code, 1)
  assert.match(
    late.err,
    /waited 100ms in vain: web: 1 of 2 healthy, 1 preparing, pulling; "tutti status web" says more/,
  )
})
