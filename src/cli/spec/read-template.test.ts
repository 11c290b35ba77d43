import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '../../model/fault.ts'
import { readTemplateFile, readTemplateText } from './read-template.ts'

async function mistakesOf(text: string): Promise<string[]> {
  try {
    await readTemplateText(text, 'template.yaml')
    return []
  } catch (error) {
    assert.ok(error instanceof Fault, String(error))
    return error.places.map(({ line, column, message }) => `${line}:${column} ${message}`)
  }
}

test('a template file becomes a recipe', async () => {
  const read = await readTemplateText(
    `name: web
aliases: [python]
tags: [v1.2]
from: python:3.12-slim
steps:
  - run: pip install flask
  - run: [echo, "a b"]
  - copy: app/ requirements.txt /app/
  - copy: { from: conf, to: /etc/conf, owner: "app:app", mode: "0640" }
  - add: vendor.tar.gz /opt/
  - env: { PORT: 8000, PATH: "/opt/bin:$PATH" }
  - workdir: /app
  - user: app
start: flask run
ready: { command: curl -f localhost:8000, timeout: 2m }
cpus: 2
memory: 1GiB
disk: 4GiB
`,
    'web/template.yaml',
  )
  assert.equal(read.name, 'web')
  assert.deepEqual(read.aliases, ['python'])
  assert.deepEqual(read.tags, ['v1.2'])
  assert.match(read.context, /\/web$/)
  assert.deepEqual(read.recipe, {
    from: { image: 'python:3.12-slim' },
    steps: [
      [{ kind: 'run', command: 'pip install flask' }, 'run pip install flask'],
      [{ kind: 'run', command: ['echo', 'a b'] }, 'run echo a b'],
      [
        { kind: 'copy', sources: ['app/', 'requirements.txt'], to: '/app/', unpack: false },
        'copy app/ requirements.txt /app/',
      ],
      [
        { kind: 'copy', sources: ['conf'], to: '/etc/conf', unpack: false, owner: 'app:app', mode: 0o640 },
        'copy conf /etc/conf',
      ],
      [{ kind: 'copy', sources: ['vendor.tar.gz'], to: '/opt/', unpack: true }, 'add vendor.tar.gz /opt/'],
      [{ kind: 'env', values: { PORT: '8000', PATH: '/opt/bin:$PATH' } }, 'env PORT PATH'],
      [{ kind: 'workdir', path: '/app' }, 'workdir /app'],
      [{ kind: 'user', user: 'app' }, 'user app'],
    ].map(([step, text], at) => ({ step, place: `web/template.yaml:${6 + at}`, text })),
    start: 'flask run',
    ready: { command: 'curl -f localhost:8000', timeoutMs: 120_000 },
    cpus: 2,
    memoryMiB: 1024,
    diskMiB: 4096,
  })
})

test('every mistake in a template file has a place and a remedy', async () => {
  const cases: [string, RegExp][] = [
    ['', /a template is a mapping that begins with "from:"/],
    ['name: x', /does not say what to begin from; add "from:"/],
    ['from: a\nimage: b', /^2:1 "from" says already what to begin from/],
    ['from: a\nstpes: []', /^2:1 "stpes" is not a key of a template; did you mean "steps"\?/],
    ['from: a\nram: 1', /^2:1 "ram" is not a key of a template; did you mean "memory"\?/],
    ['from: a\nsteps:\n  - rnu: x', /^3:5 "rnu" is not a key of steps\[0\]; did you mean "run"\?/],
    ['from: a\nsteps:\n  - run: x\n    user: y', /^3:5 .*several steps in one: run, user/],
    ['from: a\nsteps:\n  - {}', /^3:5 .*is empty; a step is one of/],
    ['from: a\nsteps:\n  - copy: x', /^3:11 .*must name a source and a target/],
    ['from: a\nsteps:\n  - copy: { from: x, to: y, mode: rwx }', /^3:35 .*must be an octal mode/],
    ['from: a\nmemory: lots', /^2:9 .*is not a size/],
    ['from: a\nmemory: 1MiB', /^2:9 "memory" must be between/],
    ['from: a\ncpus: 0', /^2:7 "cpus" must be at least 1/],
    ['from: a\narch: x86', /^2:7 "arch" must be one of amd64, arm64/],
    ['from: a\n---\nfrom: b', /a file holds one template/],
    ['from: [', /this is not YAML/],
    ['from: a\nname: A B', /^2:7 /],
  ]
  for (const [text, expected] of cases) assert.match((await mistakesOf(text))[0] ?? '', expected, text)
})

test('any text is a template or refused with places', async () => {
  const line = fc.oneof(
    fc.constantFrom(
      'from: a',
      'steps:',
      '  - run: x',
      '  - copy: a b',
      '  - env: {A: 1}',
      'ready: x',
      'start: true',
      '---',
    ),
    fc.string(),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(line, { maxLength: 8 }), async (lines) => {
      await mistakesOf(lines.join('\n'))
    }),
  )
})

test('a Dockerfile is a template, alone or named by a template file', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-template-'))
  try {
    await writeFile(join(directory, 'Dockerfile'), 'FROM debian:12\nARG V\nRUN echo $V\nEXPOSE 80\n')
    await writeFile(join(directory, 'template.yaml'), 'dockerfile: Dockerfile\nsteps:\n  - user: app\nmemory: 128MiB\n')
    const alone = await readTemplateFile(join(directory, 'Dockerfile'), { buildArgs: { V: '1' } })
    assert.deepEqual(
      alone.recipe.steps.map(({ step }) => step),
      [{ kind: 'run', command: 'echo $V', args: { V: '1' } }],
    )
    assert.equal(alone.context, directory)
    assert.equal(alone.notes.length, 1)
    const both = await readTemplateFile(join(directory, 'template.yaml'), { buildArgs: { V: '1' } })
    assert.deepEqual(both.recipe.from, { image: 'debian:12' })
    assert.deepEqual(
      both.recipe.steps.map(({ step }) => step.kind),
      ['run', 'user'],
    )
    assert.equal(both.recipe.memoryMiB, 128)
    await writeFile(join(directory, 'Dockerfile'), 'FROM a AS one\nCOPY a b\nFROM b AS two\nFROM c AS three\n')
    const staged = join(directory, 'staged.yaml')
    await writeFile(staged, 'dockerfile: Dockerfile\ntarget: two\n')
    assert.deepEqual((await readTemplateFile(staged)).recipe.from, { image: 'b' })
    assert.deepEqual((await readTemplateFile(staged, { target: 'one' })).recipe.from, { image: 'a' })
    await assert.rejects(
      readTemplateFile(staged, { target: 'x' }),
      /it has no stage "x" to build; its stages are "one"/,
    )
    assert.deepEqual(await mistakesOf('from: a\ntarget: one'), [
      '2:1 a target is a stage of a Dockerfile, and this template has no "dockerfile"',
    ])
    await writeFile(join(directory, 'Dockerfile'), 'FROM debian:12\nRUN\n')
    await assert.rejects(readTemplateFile(join(directory, 'template.yaml')), /Dockerfile:2:1: RUN lacks a command/)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
