import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type PlacedStep, PlacedStep as PlacedStepSchema, type Step } from '../../recipe/recipe.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { planSteps } from './plan-steps.ts'

const file = (path: string, hash: string, mode = 0o644, changedAt = 0): [string, ReceivedEntry] => [
  path,
  { path, type: 'file', mode, size: 1, changedAt, hash },
]
const run = (command: string | string[], args?: Record<string, string>): Step => ({
  kind: 'run',
  command,
  ...(args ? { args } : {}),
})
const copy = (source: string, to = '/x'): Step => ({ kind: 'copy', sources: [source], to, unpack: false })
const placed = (step: Step, at: number): PlacedStep =>
  PlacedStepSchema.parse({ step, place: `Dockerfile:${at + 2}`, text: step.kind })
const defaults = { env: { PATH: '/bin' }, user: 'root', cwd: '/' }

function plan(steps: Step[], files: [string, ReceivedEntry][] = [], baseKey = 'base') {
  return planSteps({ steps: steps.map(placed), tree: new Map(files), defaults, arch: 'arm64', baseKey })
}
const keysOf = (...args: Parameters<typeof plan>) => plan(...args).map(({ key }) => key)

test('a step is the same when it and all before it are the same', () => {
  assert.deepEqual(keysOf([run('a'), run('b')]), keysOf([run('a'), run('b')]))
  const [first, second] = keysOf([run('a'), run('b')])
  assert.deepEqual(keysOf([run('a')]), [first])
  assert.notEqual(keysOf([run('x'), run('b')])[1], second)
  assert.notEqual(keysOf([run('b'), run('a')])[1], second)
  assert.notEqual(keysOf([run('a')], [], 'other')[0], first)
  assert.notEqual(keysOf([run(['a'])])[0], first)
  assert.notEqual(keysOf([run('a', { V: '1' })])[0], first)
})

test('a copied file counts by what is in it, not by its time', () => {
  const [key] = keysOf([copy('f')], [file('f', 'aa')])
  assert.equal(keysOf([copy('f')], [file('f', 'aa', 0o644, 99)])[0], key)
  assert.notEqual(keysOf([copy('f')], [file('f', 'bb')])[0], key)
  assert.notEqual(keysOf([copy('f')], [file('f', 'aa', 0o755)])[0], key)
  assert.notEqual(keysOf([copy('f', '/y')], [file('f', 'aa')])[0], key)
  assert.equal(keysOf([copy('f')], [file('f', 'aa'), file('other', 'cc')])[0], key)
  assert.notEqual(
    keysOf([{ kind: 'workdir', path: '/w' }, copy('f', 'x')], [file('f', 'aa')])[1],
    keysOf([{ kind: 'workdir', path: '/v' }, copy('f', 'x')], [file('f', 'aa')])[1],
  )
})

test('surroundings count for commands only', () => {
  const env = (value: string): Step => ({ kind: 'env', values: { V: value } })
  assert.notEqual(keysOf([env('1'), run('a')])[1], keysOf([env('2'), run('a')])[1])
  assert.equal(keysOf([env('1'), copy('f')], [file('f', 'aa')])[1], keysOf([env('2'), copy('f')], [file('f', 'aa')])[1])
})

test('variables come from the image, from earlier steps and from the machine', () => {
  const steps = plan([
    { kind: 'env', values: { PATH: '/opt:$PATH', A: '$NONE' } },
    { kind: 'env', values: { B: '${A:-b}$$' } },
    { kind: 'workdir', path: 'w/$B' },
    { kind: 'workdir', path: 'x' },
    { kind: 'user', user: '${U:-app}' },
    run('true', { TARGETARCH: '${TARGETARCH}' }),
  ])
  const last = steps.at(-1)
  assert.deepEqual(last?.before, { env: { PATH: '/opt:/bin', A: '', B: 'b$' }, cwd: '/w/b$/x', user: 'app' })
  assert.deepEqual(last?.action, { kind: 'run', command: 'true', args: { TARGETARCH: 'arm64' } })
})

test('mistakes that only the node can see have the place of the step', () => {
  assert.throws(
    () => plan([copy('gone')]),
    /^Fault: Dockerfile:2: cannot copy "gone": the build context has nothing of that name/,
  )
  assert.throws(
    () => plan([{ kind: 'env', values: { A: '${B:?say which}' } }]),
    /Dockerfile:2: variable "B" is not set: say which/,
  )
  assert.throws(() => plan([{ kind: 'user', user: '$NOBODY' }]), /Dockerfile:2: "\$NOBODY" names no user/)
})
