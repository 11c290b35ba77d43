import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { commandTable } from './command-table.ts'
import { testCli } from './testing.ts'

const exec = promisify(execFile)

test('without words, and with --help, the help is on standard output', async () => {
  await using shell = await testCli()
  for (const argv of [[], ['--help'], ['help'], ['-h']]) {
    const { code, out, err } = await shell.run(...argv)
    assert.equal(code, 0, argv.join(' '))
    assert.match(out, /Usage: tutti/)
    assert.match(out, /logs \[options\] <target> \[task\]/)
    assert.equal(err, '')
  }
  assert.match((await shell.run('token', 'create', '--help')).out, /--uses <count>/)
  assert.match((await shell.run('help', 'sandbox', 'attach')).out, /Usage: tutti sandbox attach/)
  assert.match((await shell.run('help', 'run')).out, /Usage: tutti run/)
  assert.match((await shell.run('help', 'sandbox', 'atach')).err, /did you mean "attach"/)
})

test('every command explains itself, and its module is there', async () => {
  await using shell = await testCli()
  for (const { name, summary, load } of commandTable) {
    const { code, out } = await shell.run(...name.split(' '), '--help')
    assert.equal(code, 0, name)
    assert.ok(out.includes(summary), name)
    assert.equal(typeof (await load()).run, 'function', name)
  }
})

test('a slip in a command or option is a usage error that says what was meant', async () => {
  await using shell = await testCli()
  const cases: [string[], RegExp][] = [
    [['stauts'], /^tutti: there is no command "stauts"; did you mean "status"\?\n$/],
    [['node', 'drian', 'x'], /did you mean "drain"/],
    [['frobnicate'], /"tutti help" lists them/],
    [['ps', '--foo'], /unknown option '--foo'/],
    [['ps', '--al'], /Did you mean --all/],
    [['logs'], /missing required argument 'target'/],
    [['ps', '-o', 'xml'], /Allowed choices are table, json, yaml, name/],
    [['ps', 'a', 'b'], /too many arguments/],
    [['run'], /give a job file, or a command/],
    [['run', 'x.yaml', '--', 'true'], /either job files or a command/],
    [['run', '--', 'true'], /say what the command runs in/],
    [['run', '--driver', 'process'], /give the command after "--"/],
    [['run', '--driver', 'process', '-p', 'x=y', '--', 'true'], /--port needs a name/],
    [['run', '--driver', 'process', '--memory', 'lots', '--', 'true'], /"lots" is not a size/],
    [['token', 'create'], /a service account needs a name/],
    [['completion', 'tcsh'], /bash, zsh and fish/],
    [['node', 'label', 'n', 'x'], /neither key=value/],
  ]
  for (const [argv, expected] of cases) {
    const { code, out, err } = await shell.run(...argv)
    assert.equal(code, 2, `${argv.join(' ')}: ${err}`)
    assert.match(err, expected)
    assert.equal(out, '')
    assert.doesNotMatch(err, /\n {4}at /, 'no stack trace')
  }
})

test('without a control plane the sentence says how to start one, with its own exit code', async () => {
  await using shell = await testCli()
  const { code, err } = await shell.run('ps')
  assert.equal(code, 5)
  assert.match(err, /^tutti: no control plane is known here; start one with "tutti dev"/)
})

test('a control plane that is not there is said with its address', async () => {
  await using shell = await testCli({ env: { TUTTI_ADDR: '127.0.0.1:1', TUTTI_CA_FINGERPRINT: 'ab'.repeat(32) } })
  const { code, err } = await shell.run('jobs')
  assert.equal(code, 5)
  assert.match(err, /https:\/\/127\.0\.0\.1:1: nothing listens there; start one with "tutti dev"/)
})

test('the mistakes of a job file are shown with their lines', async () => {
  await using shell = await testCli()
  shell.stdin.end('name: web\ncuont: 1\ntasks: {}\n')
  const { code, err } = await shell.run('plan', '-')
  assert.equal(code, 2)
  assert.match(
    err,
    /standard input:2:1: "cuont" is not a key of a job; did you mean "count"\?\n {4}2 \| cuont: 1\n {6}\| \^/,
  )
})

test('completion knows commands, options and what they take', async () => {
  const job = { name: 'web' }
  await using shell = await testCli({ answers: { 'GET /v1/jobs': () => ({ jobs: [job], next: null, index: 1 }) } })
  const complete = async (...words: string[]) => (await shell.run('__complete', '--', ...words)).out.trim().split('\n')
  assert.ok((await complete('')).includes('logs'))
  assert.deepEqual(await complete('node', 'dr'), ['drain'])
  assert.deepEqual(await complete('ps', '--a'), ['--all'])
  assert.deepEqual(await complete('ps', '-o', 'j'), ['json'])
  assert.deepEqual(await complete('history', ''), ['web'])
  assert.deepEqual(await complete('run', ''), [':files'])
  assert.deepEqual(await complete('nonsense', 'x'), [''])
  for (const name of ['bash', 'zsh', 'fish']) assert.match((await shell.run('completion', name)).out, /__complete/)
})

/** Modules that a command line loads, as paths or package names. */
async function loaded(...argv: string[]): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'tutti-load-'))
  const hook = `import { registerHooks } from 'node:module'
registerHooks({ load(url, context, next) { process.stderr.write('LOADED ' + url + '\\n'); return next(url, context) } })
`
  try {
    const { stderr } = await exec(
      process.execPath,
      ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, 'src/main/tutti.ts', ...argv],
      { env: { ...process.env, TUTTI_HOME: home } },
    ).catch((error: { stderr: string }) => error)
    return stderr
  } finally {
    await rm(home, { recursive: true })
  }
}

test('help, version, completion and ps load no schemas, parsers or servers', async () => {
  for (const argv of [['--help'], ['version'], ['__complete', '--', 'r'], ['ps']]) {
    const modules = await loaded(...argv)
    assert.match(modules, /LOADED .*\/cli\/program\.ts/)
    for (const heavy of ['zod', 'yaml', 'ws', 'fastify', 'pino', '@peculiar']) {
      assert.doesNotMatch(modules, new RegExp(`node_modules/${heavy}/`), `${argv.join(' ')} loads ${heavy}`)
    }
  }
})

test('a result that a full disk did not take whole is a failure', { skip: !existsSync('/dev/full') }, async () => {
  const line = `"${process.execPath}" src/main/tutti.ts version >/dev/full`
  await assert.rejects(exec('/bin/sh', ['-c', line]), { code: 1, stderr: /the output could not be written: ENOSPC/ })
})
