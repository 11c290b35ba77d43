import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { openSandboxApi, plainTransport } from '../api/testing.ts'
import { createClient } from '../client/client.ts'
import { systemClock } from '../kit/system-clock.ts'
import { Fault, StepFault } from '../model/fault.ts'
import { testCli } from './testing.ts'

/** The command line before a real API, whose nodes answer as agents do. */
async function open() {
  await using undo = new AsyncDisposableStack()
  const api = undo.use(await openSandboxApi())
  const node = await api.world.addNode('a')
  await api.world.addTemplate('base', [node])
  const shell = undo.use(
    await testCli({
      connect: () => createClient({ transport: plainTransport(api.url, api.token), clock: systemClock }),
    }),
  )
  const directory = await mkdtemp(join(tmpdir(), 'tutti-sandboxes-'))
  undo.defer(() => rm(directory, { recursive: true, force: true }))
  const run = async (...argv: string[]) => {
    const result = await shell.run(...argv)
    assert.equal(result.code, 0, `${argv.join(' ')}: ${result.err}`)
    return result.out
  }
  const owned = undo.move()
  return { ...api, node, shell, run, directory, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

test('a sandbox is made, used and ended, and its exit codes are ours', async () => {
  await using at = await open()
  const id = (await at.run('sandbox', 'create', 'base', '-e', 'A=1', '-m', 'team=x', '--timeout', '10m')).trim()
  assert.match(id, /^[0-9a-z]{16}$/)
  const ran = await at.shell.run('sandbox', 'exec', id, '--', 'sh', '-c', 'echo $A; echo oops >&2; exit 7')
  assert.deepEqual(ran, { code: 7, out: '1\n', err: 'oops\n' })
  assert.equal((await at.shell.run('sandbox', 'exec', '-e', 'B=2', id, 'sh', '-c', 'echo $A$B')).out, '12\n')
  assert.match(
    await at.run('sandbox', 'list'),
    new RegExp(`${id} +- +base +a +running +(10m|600s), then kill +\\ds +team=x`),
  )
  assert.equal(await at.run('sandbox', 'list', '-m', 'team=y', '-o', 'name'), '')
  assert.match(await at.run('sandbox', 'list', '-m', 'team=y'), /^No sandbox is like that/)
  assert.match((await at.shell.run('sandbox', 'list', '--phase', 'x')).err, /tutti: "phase" must be one of/)
  assert.match(await at.run('sandbox', 'info', id.slice(0, 6)), /egress +deny[\s\S]*was created by all from "base"/)
  assert.match(await at.run('sandbox', 'metrics', id), /memory +64 MiB of 256 MiB/)
  assert.match(await at.run('sandbox', 'logs', id), /Linux version/)
  assert.match(await at.run('sandbox', 'timeout', id, 'never'), /has no time limit now/)
  assert.equal(
    await at.run('sandbox', 'egress', id, '--allow', '10.0.0.0/8', '--allow', '*.example.org'),
    'only 10.0.0.0/8 *.example.org\n',
  )
  assert.equal(await at.run('sandbox', 'pause', id), `sandbox ${id} is paused\n`)
  const refused = await at.shell.run('sandbox', 'exec', id, 'true')
  assert.equal(refused.code, 6)
  assert.match(refused.err, /is paused and cannot be reached; "tutti sandbox resume/)
  assert.equal(await at.run('sandbox', 'resume', id), `sandbox ${id} runs\n`)
  const forks = (await at.run('sandbox', 'fork', id, '-n', '3')).trim().split('\n')
  assert.equal(new Set(forks).size, 3)
  const build = (await at.run('sandbox', 'snapshot', id, '--template', 'warm:v1')).trim()
  assert.match(await at.run('template', 'info', 'warm'), new RegExp(`tag v1 +${build}`))
  assert.match(await at.run('build', 'list'), new RegExp(`${build} +warm +ready +snapshot`))
  assert.match(await at.run('sandbox', 'kill', id), /is killed/)
  await at.run('sandbox', 'kill', '--all')
  assert.equal(await at.run('sandbox', 'list', '-o', 'name'), '')
  assert.equal(at.node.sandboxes.size, 0)
})

test('a command goes on by itself, and is listed, joined and ended', async () => {
  await using at = await open()
  const id = (await at.run('sandbox', 'create')).trim()
  assert.match(await at.run('sandbox', 'ps', id), /No command runs there/)
  const pid = (await at.run('sandbox', 'exec', '-d', id, '--', 'sh', '-c', 'echo up; cat; exit 3')).trim()
  assert.match(pid, /^\d+$/)
  // Without -i its input is empty, so that cat ends.
  assert.deepEqual(await at.shell.run('sandbox', 'attach', id, pid), { code: 3, out: 'up\n', err: '' })
  assert.match(
    await at.run('sandbox', 'ps', id, '-a'),
    new RegExp(`${pid} +exited 3 +\\d.* +sh -c echo up; cat; exit 3`),
  )
  const waiting = (await at.run('sandbox', 'exec', '-di', id, '--', 'sh', '-c', 'read a; echo "got $a"')).trim()
  assert.match(await at.run('sandbox', 'ps', id), new RegExp(`${waiting} +running`))
  assert.equal(await at.run('sandbox', 'ps', id, '-o', 'name'), `${waiting}\n`)
  at.shell.stdin.end('this\n')
  assert.equal((await at.shell.run('sandbox', 'attach', '-i', id, waiting)).out, 'got this\n')
  const sleeper = (await at.run('sandbox', 'exec', '-d', id, 'sleep', '1000')).trim()
  assert.match(await at.run('sandbox', 'signal', 'term', id, sleeper), /SIGTERM is sent/)
  assert.equal((await at.shell.run('sandbox', 'attach', id, sleeper)).code, 143)
  const onTerminal = (await at.run('sandbox', 'exec', '-dt', id, '--', 'sh', '-c', 'read a; exit 4')).trim()
  assert.match(await at.run('sandbox', 'ps', id), new RegExp(`${onTerminal} +running`))
  await at.run('sandbox', 'signal', 'KILL', id, onTerminal)
  assert.match((await at.shell.run('sandbox', 'attach', id, 'x')).err, /"x" is not a process id/)
})

test('forks of which only some come to be are told, with a code', async () => {
  await using at = await open()
  const id = (await at.run('sandbox', 'create')).trim()
  assert.match((await at.shell.run('sandbox', 'fork', id, '-n', '0')).err, /tutti: "count" must be at least 1\n/)
  at.node.forkFault = (child) => (child === 0 ? 'no memory is free' : undefined)
  const { code, out, err } = await at.shell.run('sandbox', 'fork', id, '-n', '2')
  assert.equal(code, 1)
  assert.equal(out.trim().split('\n').length, 1)
  assert.match(err, /1 of 2 forks could not be made: no memory is free/)
})

test('a name is one sandbox’s at a time, and leads to the last that had it when all are over', async () => {
  await using at = await open()
  const first = await at.run('sandbox', 'create', '--name', 'box')
  const again = await at.shell.run('sandbox', 'create', '--name', 'box')
  assert.equal(again.code, 6)
  assert.match(
    again.err,
    /there is a sandbox "box" already, [0-9a-z]{16}, which is running; kill it, or choose another/,
  )
  await at.run('sandbox', 'kill', 'box')
  assert.match(await at.run('sandbox', 'info', 'box'), new RegExp(`${first.trim()}[^]*killed`))
  assert.match((await at.shell.run('sandbox', 'exec', 'box', 'true')).err, new RegExp(`sandbox ${first.trim()} `))
  const next = await at.run('sandbox', 'create', '--name', 'box')
  assert.match(await at.run('sandbox', 'info', 'box'), new RegExp(next.trim()))
})

test('files and directories are copied both ways', async () => {
  await using at = await open()
  const id = (await at.run('sandbox', 'create', '--name', 'box')).trim()
  const from = join(at.directory, 'from')
  await mkdir(join(from, 'deep'), { recursive: true })
  await writeFile(join(from, 'run.sh'), 'echo hi\n', { mode: 0o755 })
  await writeFile(join(from, 'deep', 'data'), Buffer.alloc(2 ** 20, 'y'))
  await at.run('sandbox', 'cp', from, 'box:/srv')
  assert.equal(await at.run('sandbox', 'cp', `${id}:/srv/run.sh`, '-'), 'echo hi\n')
  await at.run('sandbox', 'cp', join(from, 'run.sh'), 'box:/srv/')
  const to = join(at.directory, 'to')
  await at.run('sandbox', 'cp', 'box:/srv', to)
  assert.equal(await readFile(join(to, 'run.sh'), 'utf8'), 'echo hi\n')
  assert.equal((await stat(join(to, 'deep', 'data'))).size, 2 ** 20)
  at.shell.stdin.end('from stdin')
  await at.run('sandbox', 'cp', '-', 'box:/srv/in')
  assert.equal(await at.run('sandbox', 'cp', 'box:/srv/in', '-'), 'from stdin')
  for (const [argv, expected] of [
    [['box:/nothing', to], /nothing at "\/nothing"/],
    [[join(from, 'none'), 'box:/x'], /cannot read .*none here: there is no such file or directory\n$/],
    [['box:/srv/in', join(at.directory, 'none', 'in')], /cannot write .*none\/in here: there is no such file or dir/],
    [['box:/srv', join(from, 'run.sh')], /cannot make .*run.sh here: it is no directory\n$/],
    [['a', 'b'], /one of the two must be in a sandbox/],
    [['box:/a', 'box:/b'], /only one of the two may be in a sandbox/],
    [[from, 'box:'], /say where in the sandbox, from its root, such as box:\/tmp\//],
  ] as [string[], RegExp][])
    assert.match((await at.shell.run('sandbox', 'cp', ...argv)).err, expected)
})

test('a sandbox cannot write outside of where its files are copied to', async () => {
  await using at = await open()
  const id = (await at.run('sandbox', 'create')).trim()
  at.node.before = () => {}
  const answer = at.node.services.sandbox
  at.node.services.sandbox = async (request, stream, options) => {
    if ((request as { op: string }).op !== 'list') return answer?.(request, stream, options)
    const entry = { name: '../evil', type: 'file', size: 1, mode: 0o644, uid: 0, gid: 0, changedAt: 0 }
    stream.end(`${JSON.stringify({ entries: [entry] })}\n`)
  }
  await at.run('sandbox', 'exec', id, 'true')
  at.node.sandboxes.get(id as never)?.files.set('/d/a', Buffer.from('x'))
  const { code, err } = await at.shell.run('sandbox', 'cp', `${id}:/d`, join(at.directory, 'out'))
  assert.equal(code, 2)
  assert.match(err, /has a file with the name "\.\.\/evil", which cannot be copied/)
})

test('a template is built from a file, an image or another template, and says what it does', async () => {
  await using at = await open()
  const seen: { recipe: Record<string, unknown>; context: number; noCache: boolean }[] = []
  at.node.buildScript = (say, context, { recipe, noCache }) => {
    seen.push({ recipe: recipe as Record<string, unknown>, context: context.length, noCache })
    say({ log: { at: 1, level: 'info', step: 1, message: 'RUN true' } })
    say({ built: { machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 } } })
  }
  await writeFile(join(at.directory, 'hello.txt'), 'hello')
  await writeFile(join(at.directory, 'Dockerfile'), 'FROM debian:12\nCOPY hello.txt /\nRUN true\n')
  const built = await at.shell.run(
    'template',
    'build',
    at.directory,
    '--name',
    'web:v1',
    '--no-cache',
    '--memory',
    '1GiB',
  )
  assert.equal(built.code, 0, built.err)
  assert.match(built.out, /^[0-9a-z]{16}\n$/)
  assert.match(built.err, /RUN true[\s\S]*template "web" is built after/)
  assert.equal(seen[0]?.noCache, true)
  assert.equal(seen[0]?.recipe.memoryMiB, 1024)
  assert.ok((seen[0]?.context ?? 0) > 1000)
  await at.run('template', 'build', '--image', 'debian:12', '--name', 'bare')
  await at.run('template', 'build', '--from', 'web:v1', '--name', 'more')
  assert.deepEqual(
    seen.map(({ recipe }) => recipe.from),
    [{ image: 'debian:12' }, { image: 'debian:12' }, { template: 'web:v1' }],
  )
  assert.match(await at.run('template', 'logs', 'web:v1'), /RUN true/)
  await at.run('template', 'tag', 'web:v1', 'web:latest')
  await at.run('template', 'alias', 'web', 'www')
  assert.match(await at.run('template', 'list'), /web +latest v1 +[0-9a-z]{16} +www/)
  assert.match(await at.run('template', 'tag', 'web', 'web:v2', 'web:v3'), /web:v3 leads to build [0-9a-z]{16}\n/)
  assert.equal(await at.run('template', 'tag', '--remove', 'web:v2', 'web:v3'), 'web:v2 is gone\nweb:v3 is gone\n')
  at.node.buildScript = () => {
    throw new StepFault('invalid', 'Dockerfile:3: RUN true failed with 2')
  }
  const failed = await at.shell.run('template', 'build', at.directory, '--name', 'web')
  assert.match(failed.err, /tutti: Dockerfile:3: RUN true failed with 2\n/)
  assert.equal(failed.err.match(/RUN true failed/g)?.length, 1)
  assert.equal(failed.code, 7)
  const causes = { invalid: 2, not_found: 3, denied: 4, unavailable: 5, exhausted: 1, conflict: 6 } as const
  for (const [code, exit] of Object.entries(causes)) {
    at.node.buildScript = () => {
      throw new Fault(code as keyof typeof causes, 'it was not to be')
    }
    const { code: found, err } = await at.shell.run('template', 'build', at.directory, '--name', 'web')
    assert.deepEqual([found, err.match(/tutti: it was not to be\n/)?.length], [exit, 1], code)
  }
  const builds = JSON.parse(await at.run('build', 'list', '--template', 'web', '-a', '-o', 'json'))
  const failures = new Set((builds as { failure?: string }[]).flatMap(({ failure }) => failure ?? []))
  assert.deepEqual(failures, new Set(['step', ...Object.keys(causes)]))
  await at.run('template', 'delete', 'web')
  assert.equal((await at.shell.run('sandbox', 'create', 'web')).code, 3)
})

test('Ctrl-C lets go of a build, and says how to follow it and how to call it off', async () => {
  await using at = await open()
  at.node.buildScript = (say) => {
    say({ log: { at: 1, level: 'info', step: 1, message: 'RUN true' } })
    return new Promise(() => {})
  }
  const running = at.shell.run('template', 'build', '--image', 'debian:12', '--name', 'slow')
  at.shell.cli.stderr.on('data', (bytes: Buffer) => {
    if (String(bytes).includes('RUN true')) at.shell.interrupt()
  })
  const { code, err } = await running
  assert.equal(code, 130)
  assert.match(
    err,
    /the build goes on: "tutti template logs -f ([0-9a-z]{16})" follows it, .* delete \1" calls it off\n/,
  )
})

test('the password of a registry comes from a file, standard input or the environment', async () => {
  await using at = await open()
  const seen: unknown[] = []
  at.node.buildScript = (say, _context, { credentials }) => {
    seen.push(credentials)
    say({ built: { machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 } } })
  }
  const file = join(at.directory, 'password')
  await writeFile(file, 'open sesame\n', { mode: 0o600 })
  const build = ['template', 'build', '--image', 'registry.example/app', '--name', 'web', '--registry-user', 'ada']
  await at.run(...build, '--registry-password-file', file)
  at.shell.stdin.end('from stdin\n')
  await at.run(...build, '--alias', 'www', '--registry-password-file', '-')
  assert.deepEqual(seen, [
    { username: 'ada', password: 'open sesame' },
    { username: 'ada', password: 'from stdin' },
  ])
  assert.match(await at.run('template', 'list'), /web +latest.* www/)
  const missing = await at.shell.run(...build)
  assert.equal(missing.code, 2)
  assert.match(missing.err, /password of registry user "ada" is missing: TUTTI_REGISTRY_PASSWORD is not set/)
  const from = await at.shell.run('template', 'build', '--from', 'web', '--name', 'x', '--registry-user', 'ada')
  assert.match(from.err, /this begins from a template/)
})

test('secrets of a build come from files and the environment, and are in no answer', async () => {
  await using at = await open()
  const seen: unknown[] = []
  at.node.buildScript = (say, _context, { secrets }) => {
    seen.push(secrets)
    say({ built: { machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 } } })
  }
  const file = join(at.directory, 'secret')
  await writeFile(file, 'open sesame\n', { mode: 0o600 })
  const build = ['template', 'build', '--image', 'debian', '--name', 'web']
  await at.run(...build, '--secret', `id=key,src=${file}`)
  assert.deepEqual(seen, [{ key: Buffer.from('open sesame\n').toString('base64') }])
  const cases: [string, RegExp][] = [
    ['open sesame', /--secret needs id=ID,src=FILE or id=ID,env=NAME$/m],
    ['id=key,src=/no/such', /cannot read a secret from \/no\/such: ENOENT/],
    ['id=key,env=NO_SUCH', /NO_SUCH is not set in the environment/],
  ]
  for (const [given, message] of cases) {
    const { code, err } = await at.shell.run(...build, '--secret', given)
    assert.equal(code, 2)
    assert.match(err, message)
    assert.ok(!err.includes('sesame'))
  }
})

test('what is wrong with a command for sandboxes is told before anything is asked', async () => {
  await using shell = await testCli({ answers: {} })
  const cases: [string[], RegExp][] = [
    [['sandbox', 'creat'], /did you mean "create"/],
    [['sandbox', 'ls'], /did you mean "list"/],
    [['sandbox', 'rm', 'x'], /did you mean "kill"/],
    [['template', 'rm', 'x'], /did you mean "delete"/],
    [['sandbox', 'frobnicate'], /"tutti help sandbox" lists them/],
    [['sandbox', 'ps'], /missing required argument 'sandbox'\n {2}tutti sandbox ps \[options\] <sandbox>\n/],
    [['sandbox', 'exec', 'x'], /exec needs a command/],
    [['sandbox', 'exec', 'x', '-u', 'ada', 'id'], /options go before it: tutti sandbox exec -u … x -- COMMAND/],
    [['sandbox', 'create', '--timeout', '0s'], /a sandbox runs for at least 1s, not "0s"/],
    [['sandbox', 'create', '--timeout', 'soon'], /"soon" is not a duration/],
    [['sandbox', 'create', '--egress', 'allow', '--allow', '1.1.1.1'], /either "allow", or what --allow lists/],
    [['sandbox', 'url', 'x', '99999'], /is not a port/],
    [['sandbox', 'port-forward', 'x', 'http'], /neither PORT nor LOCAL:PORT/],
    [['sandbox', 'kill'], /say which sandboxes, or --all/],
    [['template', 'build'], /say what to build/],
    [
      ['template', 'build', '--image', 'x', '--name', 'x', '--disk', '50MiB'],
      /--disk must be between 64 MiB and 16 TiB/,
    ],
    [['template', 'build', '/no/such/file'], /there is no such file/],
    [['template', 'tag', 'x', 'y'], /"y" is not NAME:TAG/],
  ]
  for (const [argv, expected] of cases) {
    const { code, err } = await shell.run(...argv)
    assert.equal(code, 2, argv.join(' '))
    assert.match(err, expected)
  }
})
