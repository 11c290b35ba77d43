import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Mount, type PlacedStep, PlacedStep as PlacedStepSchema, type Step } from '../../recipe/recipe.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import { type Elsewhere, planSteps } from './plan-steps.ts'

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
  return planSteps({ steps: steps.map(placed), tree: new Map(files), defaults, arch: 'arm64', baseKey, elsewhere })
}
const keysOf = async (...args: Parameters<typeof plan>) => (await plan(...args)).map(({ key }) => key)
/** Stages and images are the same by their number or name, URLs and texts by what they are. */
const elsewhere: Elsewhere = {
  origin: async (from) => ({ ...from, key: JSON.stringify(from) }),
  fetch: async (url, checksum) => ({ ...file('name', checksum ?? url)[1], path: url.split('/')[3] ?? '', url }),
  write: async (name, text) => file(name, text)[1],
}

test('a step is the same when it and all before it are the same', async () => {
  assert.deepEqual(await keysOf([run('a'), run('b')]), await keysOf([run('a'), run('b')]))
  const [first, second] = await keysOf([run('a'), run('b')])
  assert.deepEqual(await keysOf([run('a')]), [first])
  assert.notEqual((await keysOf([run('x'), run('b')]))[1], second)
  assert.notEqual((await keysOf([run('b'), run('a')]))[1], second)
  assert.notEqual((await keysOf([run('a')], [], 'other'))[0], first)
  assert.notEqual((await keysOf([run(['a'])]))[0], first)
  assert.notEqual((await keysOf([run('a', { V: '1' })]))[0], first)
})

test('a copied file counts by what is in it, not by its time', async () => {
  const [key] = await keysOf([copy('f')], [file('f', 'aa')])
  assert.equal((await keysOf([copy('f')], [file('f', 'aa', 0o644, 99)]))[0], key)
  assert.notEqual((await keysOf([copy('f')], [file('f', 'bb')]))[0], key)
  assert.notEqual((await keysOf([copy('f')], [file('f', 'aa', 0o755)]))[0], key)
  assert.notEqual((await keysOf([copy('f', '/y')], [file('f', 'aa')]))[0], key)
  assert.equal((await keysOf([copy('f')], [file('f', 'aa'), file('other', 'cc')]))[0], key)
  assert.notEqual(
    (await keysOf([{ kind: 'workdir', path: '/w' }, copy('f', 'x')], [file('f', 'aa')]))[1],
    (await keysOf([{ kind: 'workdir', path: '/v' }, copy('f', 'x')], [file('f', 'aa')]))[1],
  )
})

test('mounts count by what they bring, and secrets and caches by their names alone', async () => {
  const mounted = (...mounts: Mount[]): Step => ({ ...run('a'), kind: 'run', command: 'a', mounts })
  const bind = (source: string): Mount => ({ kind: 'bind', to: 'x', source, writable: false })
  const secret = (id: string): Mount => ({ kind: 'secret', id, required: false, uid: 0, gid: 0 })
  const [plain] = await keysOf([run('a')])
  assert.equal((await keysOf([{ ...run('a'), kind: 'run', command: 'a', mounts: [] }]))[0], plain)
  const [bound] = await keysOf([mounted(bind('f'))], [file('f', 'aa'), file('g', 'bb')])
  assert.notEqual(bound, plain)
  assert.equal((await keysOf([mounted(bind('f'))], [file('f', 'aa'), file('g', 'cc')]))[0], bound)
  assert.notEqual((await keysOf([mounted(bind('f'))], [file('f', 'cc')]))[0], bound)
  assert.notEqual((await keysOf([mounted(bind(''))], [file('f', 'aa')]))[0], bound)
  assert.notEqual((await keysOf([mounted(secret('a'))]))[0], (await keysOf([mounted(secret('b'))]))[0])
  const [step] = await plan([{ kind: 'workdir', path: '/w' }, mounted(bind('f'))], [file('f', 'aa')]).then((all) =>
    all.slice(1),
  )
  assert.ok(step?.action.kind === 'run' && step.action.mounts?.[0]?.to === '/w/x')
  await assert.rejects(
    plan([mounted({ ...bind('f'), to: '/' } as Mount)], [file('f', 'aa')]),
    /over the whole file system/,
  )
  await assert.rejects(plan([mounted(bind('gone'))]), /Dockerfile:2: .*nothing of that name/)
})

test('surroundings count for commands only', async () => {
  const env = (value: string): Step => ({ kind: 'env', values: { V: value } })
  assert.notEqual((await keysOf([env('1'), run('a')]))[1], (await keysOf([env('2'), run('a')]))[1])
  assert.equal(
    (await keysOf([env('1'), copy('f')], [file('f', 'aa')]))[1],
    (await keysOf([env('2'), copy('f')], [file('f', 'aa')]))[1],
  )
})

test('variables come from the image, from earlier steps and from the machine', async () => {
  const steps = await plan([
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

test('mistakes that only the node can see have the place of the step', async () => {
  await assert.rejects(
    () => plan([copy('gone')]),
    /^Fault: Dockerfile:2: cannot copy "gone": the build context has nothing of that name/,
  )
  await assert.rejects(
    () => plan([{ kind: 'env', values: { A: '${B:?say which}' } }]),
    /Dockerfile:2: variable "B" is not set: say which/,
  )
  await assert.rejects(() => plan([{ kind: 'user', user: '$NOBODY' }]), /Dockerfile:2: "\$NOBODY" names no user/)
})

test('what is copied from a stage, an image or a URL counts by what that is', async () => {
  const from = (origin: { stage: number } | { image: string }, source = 'a'): Step => ({
    ...{ kind: 'copy', sources: [source], to: '/x', unpack: false, from: origin },
  })
  const [key] = await keysOf([from({ stage: 0 })])
  assert.deepEqual(await keysOf([from({ stage: 0 })], [file('a', 'aa')]), [key], 'the context has no part in it')
  for (const other of [from({ stage: 1 }), from({ image: 'a' }), from({ stage: 0 }, 'b'), copy('a')])
    assert.notDeepEqual(await keysOf([other], [file('a', 'aa')]), [key])
  const add = (url: string, checksum?: string): Step => ({
    ...{ kind: 'copy', sources: [url], to: '/x/', unpack: true },
    ...(checksum === undefined ? {} : { checksum }),
  })
  const plain = await keysOf([add('https://a/b')])
  assert.notDeepEqual(await keysOf([add('https://a/c')]), plain)
  await assert.rejects(plan([add('https://a/')]), /Dockerfile:2: "https:\/\/a\/" ends without a name for the file/)
})

test('a text in the recipe is a file with the variables of its place', async () => {
  const inline = (text: string): Step => ({
    ...{ kind: 'copy', sources: [], inline: [{ name: 'f', text }], to: '/x', unpack: false },
  })
  const [, step] = await plan([{ kind: 'env', values: { A: '1' } }, inline('$A $$A')])
  assert.ok(step?.action.kind === 'copy' && step.action.sources[0]?.found.kind === 'file')
  assert.equal(step.action.sources[0].found.entry.hash, '1 $A')
  assert.notDeepEqual(await keysOf([inline('a')]), await keysOf([inline('b')]))
})
