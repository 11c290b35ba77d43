import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { chmodSync, existsSync, globSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import type { z } from 'zod'
import { systemClock } from '../../kit/system-clock.ts'
import { Fault } from '../../model/fault.ts'
import { encodeId } from '../../model/ids.ts'
import { TaskSpec } from '../../model/job.ts'
import type { TaskPlan } from '../driver.ts'
import { ProcessDriver } from './process-driver.ts'
import { userSwitchLacking } from './program.ts'
import { procTable } from './table.ts'

const { signal } = new AbortController()
const onLinux = process.platform === 'linux' ? {} : { skip: 'needs /proc' }
const switching = userSwitchLacking()
const asRoot = switching === undefined ? {} : { skip: switching }

async function rig(t: TestContext) {
  const base = await mkdtemp(join(tmpdir(), 'tutti-process-'))
  // The task directory has to be reachable for other users.
  chmodSync(base, 0o755)
  const make = () => new ProcessDriver({ directory: join(base, 'driver'), clock: systemClock })
  const driver = make()
  const plans: TaskPlan[] = []
  t.after(async () => {
    for (const plan of plans) await driver.remove(plan)
    await rm(base, { recursive: true, force: true })
  })
  const plan = async (fragment: Omit<z.input<typeof TaskSpec>, 'driver'>, env: Record<string, string> = {}) => {
    const allocation = encodeId(randomBytes(10))
    const home = join(base, allocation)
    const made: TaskPlan = {
      id: `${allocation}-main`,
      job: 'job',
      allocation,
      task: 'main',
      attempt: 1,
      spec: TaskSpec.parse({ driver: 'process', ...fragment }),
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', ...env },
      directory: join(home, 'a task'),
      stateDirectory: join(home, `the task's "state"`),
      limits: { memory: 0, cores: 0, pids: 0 },
      ports: {},
      mounts: [],
      output: { stdout: join(home, 'out'), stderr: join(home, 'err') },
    }
    for (const directory of [made.directory, made.stateDirectory]) await mkdir(directory, { recursive: true })
    plans.push(made)
    return made
  }
  const run = async (
    script: string,
    parts: Partial<z.input<typeof TaskSpec>> = {},
    env: Record<string, string> = {},
  ) => {
    const made = await plan({ ...parts, command: ['/bin/sh', '-c', script] }, env)
    const handle = await driver.start(made, { signal })
    return { plan: made, handle }
  }
  const output = async (
    script: string,
    parts: Partial<z.input<typeof TaskSpec>> = {},
    env: Record<string, string> = {},
  ) => {
    const { plan: made, handle } = await run(script, parts, env)
    const { code } = await handle.exited
    assert.equal(code, 0, await readFile(made.output.stderr, 'utf8'))
    return readFile(made.output.stdout, 'utf8')
  }
  return { base, driver, again: make, plan, run, output }
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => assert.fail('it was not refused'),
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, 'invalid')
  return error.message
}

/** Not marked to be closed when another program is run. */
function isPassedOn(fd: string): boolean {
  try {
    const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '0'
    return Number(fd) > 2 && (Number.parseInt(flags, 8) & 0o2000000) === 0
  } catch {
    return false
  }
}

async function untilUp(plan: TaskPlan): Promise<void> {
  while (!readFileSync(plan.output.stdout, 'utf8').includes('up')) await systemClock.sleep(5)
}

test('a task inherits its three streams and no other open file', onLinux, async (t) => {
  const { output } = await rig(t)
  const listing = await output('exec ls -l /proc/self/fd')
  const open = listing.split('\n').flatMap((line) => line.split(' -> ')[1] ?? [])
  // What we were started with open, and cannot help passing on.
  const inherited = readdirSync('/proc/self/fd').flatMap((fd) =>
    isPassedOn(fd) ? readlinkSync(`/proc/self/fd/${fd}`) : [],
  )
  const ours = open.filter((target) => !inherited.includes(target) && !/^\/proc\//.test(target))
  assert.deepEqual(ours.map((target) => basename(target)).toSorted(), ['err', 'null', 'out'])
})

test('a task finds no signal ignored or blocked', onLinux, async (t) => {
  const { output } = await rig(t)
  const status = await output('exec grep -E "^Sig(Blk|Ign)" /proc/self/status')
  assert.deepEqual(status.trim().split(/\s+/), ['SigBlk:', '0000000000000000', 'SigIgn:', '0000000000000000'])
})

test('a task leads a session of its own', onLinux, async (t) => {
  const { run } = await rig(t)
  const started = await run('echo up; exec sleep 1000')
  await untilUp(started.plan)
  const fields = readFileSync(`/proc/${started.handle.pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  assert.deepEqual([fields[2], fields[3]], [String(started.handle.pid), String(started.handle.pid)])
})

test('variables that shells treat as their own arrive as they are', onLinux, async (t) => {
  const { plan, driver } = await rig(t)
  const env = {
    IFS: 'x',
    OPTIND: 'none',
    UID: '12',
    PS4: '`id`',
    PPID: 'p',
    SHLVL: '9',
    LD_PRELOAD: '',
    PWD: '/elsewhere',
  }
  const made = await plan({ command: ['/usr/bin/env', '-0'] }, env)
  assert.equal((await (await driver.start(made, { signal })).exited).code, 0)
  const seen = Object.fromEntries(
    (await readFile(made.output.stdout, 'utf8')).split('\0').map((pair) => pair.split('=', 2)),
  )
  assert.deepEqual(
    { ...seen, '': undefined, _: undefined },
    { ...made.env, TUTTI_TASK_ID: made.id, '': undefined, _: undefined },
  )
})

test('secrets in the environment are on no command line', onLinux, async (t) => {
  const { run } = await rig(t)
  const { plan, handle } = await run('echo up; sleep 1000', {}, { PASSWORD: 'correct-horse' })
  await untilUp(plan)
  const pids = [...(await procTable.membersOf(plan.id, handle.pid))]
  assert.ok(pids.length >= 3, 'the parent, the shell and sleep')
  for (const pid of pids) assert.doesNotMatch(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), /correct-horse/)
})

test('a task runs as the user that its spec names', asRoot, async (t) => {
  const { output } = await rig(t)
  assert.equal(await output('id -un; id -u; echo via >> /dev/stdout', { user: 'nobody' }), `nobody\n${65534}\nvia\n`)
  assert.equal(await output('id -u; id -g; id -G', { user: '12345' }), '12345\n12345\n12345\n')
})

test('a command beside a task runs as its user, or the one it names', asRoot, async (t) => {
  const { run } = await rig(t)
  const { handle } = await run('sleep 1000', { user: 'nobody' })
  const same = await handle.guest.exec({ command: ['id', '-un'], env: {} }, { signal })
  assert.equal(await text(same.stdout), 'nobody\n')
  const other = await handle.guest.exec({ command: ['id', '-un'], env: {}, user: 'daemon' }, { signal })
  assert.equal(await text(other.stdout), 'daemon\n')
  assert.match(await refusal(handle.guest.exec({ command: ['id'], env: {}, user: 'no-body' }, { signal })), /"no-body"/)
})

test('a command beside a task is in its control group', onLinux, async (t) => {
  const { run, driver } = await rig(t)
  if (!driver.can.limits) return t.skip('there are no control groups here')
  const { handle, plan } = await run('sleep 1000')
  const inside = await handle.guest.exec({ command: ['cat', '/proc/self/cgroup'], env: {} }, { signal })
  assert.match(await text(inside.stdout), new RegExp(`/tutti/${plan.id}\\.1`))
})

test('mistakes in a spec are refused by name before anything is made', async (t) => {
  const { driver, plan } = await rig(t)
  const start = async (made: TaskPlan) => refusal(driver.start(made, { signal }))
  assert.match(await start(await plan({ command: 'true', user: 'no-such-user' })), /"no-such-user"/)
  assert.match(
    await start(await plan({ command: 'true', cwd: 'not/there' })),
    /not\/there" of task "main" is not there/,
  )
  assert.match(await start(await plan({ command: './nothing' })), /"\.\/nothing" of task "main" was not found/)

  const plain = await plan({ command: './plain' })
  writeFileSync(join(plain.directory, 'plain'), 'echo')
  assert.match(await start(plain), /plain".* is not executable/)
  const script = await plan({ command: './script' })
  writeFileSync(join(script.directory, 'script'), '#!/no/such/shell\n', { mode: 0o755 })
  assert.match(await start(script), /is a script for "\/no\/such\/shell"/)
  for (const made of [plain, script]) assert.deepEqual(await readdir(made.stateDirectory), [])
})

test('a program is found in the task directory, also by a relative PATH', async (t) => {
  const { driver, plan } = await rig(t)
  for (const fragment of [{ command: './bin/app' }, { command: 'app' }]) {
    const made = await plan(fragment, { PATH: 'bin:/usr/bin:/bin' })
    await mkdir(join(made.directory, 'bin'))
    writeFileSync(join(made.directory, 'bin/app'), '#!/bin/sh\nexit 21\n', { mode: 0o755 })
    assert.equal((await (await driver.start(made, { signal })).exited).code, 21)
  }
})

test('when the parent is killed the task is ended and its exit is unknown', onLinux, async (t) => {
  const { run, again } = await rig(t)
  for (const away of [false, true]) {
    const { plan, handle } = await run('trap "" TERM; echo up; while :; do sleep 0.1; done')
    await untilUp(plan)
    if (away) await handle[Symbol.asyncDispose]()
    process.kill(Number.parseInt(readFileSync(join(plan.stateDirectory, 'process-1/parent'), 'utf8'), 10), 'SIGKILL')
    const found = away ? await again().adopt(plan) : handle
    const exit = await found?.exited
    assert.equal(exit?.code, 255)
    assert.match(exit?.unknown ?? '', /not known/)
    assert.deepEqual(await procTable.membersOf(plan.id, handle.pid), [])
  }
})

test('the parent does not end with a signal that is meant for others', onLinux, async (t) => {
  const { run } = await rig(t)
  const { plan, handle } = await run('echo up; while [ ! -e go ]; do sleep 0.05; done; exit 11')
  await untilUp(plan)
  const parent = Number.parseInt(readFileSync(join(plan.stateDirectory, 'process-1/parent'), 'utf8'), 10)
  for (const name of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const)
    process.kill(parent, name)
  writeFileSync(join(plan.directory, 'go'), '')
  assert.equal((await handle.exited).code, 11)
})

test('a process that got the number of a task of old is not touched', onLinux, async (t) => {
  const { run, again } = await rig(t)
  const other = await run('echo up; sleep 1000')
  await untilUp(other.plan)
  const { plan, handle } = await run('exit 0')
  await handle.exited
  // As if both had ended unseen, and the number of each now belonged to somebody who started later.
  const state = join(plan.stateDirectory, 'process-1')
  const stat = readFileSync(`/proc/${other.handle.pid}/stat`, 'utf8')
  const before = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const line = stat.replace(` ${before[19]} `, ` ${Number(before[19]) - 1} `)
  for (const name of ['parent', 'task']) writeFileSync(join(state, name), line)
  for (const name of ['exit', 'outcome']) await rm(join(state, name))
  const found = await again().adopt(plan)
  assert.match((await found?.exited)?.unknown ?? '', /not known/)
  await found?.signal('SIGKILL')
  await again().remove(plan)
  assert.ok(existsSync(`/proc/${other.handle.pid}`))
  assert.deepEqual(await other.handle.stats().then(({ pids }) => pids > 0), true)
})

test('after a start of the machine an attempt is over and its exit unknown', onLinux, async (t) => {
  const { run, again } = await rig(t)
  const { plan, handle } = await run('exit 0')
  await handle.exited
  const intent = join(plan.stateDirectory, 'process-1/intent')
  writeFileSync(intent, JSON.stringify({ ...JSON.parse(readFileSync(intent, 'utf8')), boot: 'an earlier one' }))
  for (const name of ['exit', 'outcome']) await rm(join(plan.stateDirectory, 'process-1', name))
  assert.match((await (await again().adopt(plan))?.exited)?.unknown ?? '', /started anew/)
})

test('an attempt that was given up is not begun after all', async (t) => {
  const { driver, plan } = await rig(t)
  const made = await plan({ command: 'true' })
  // As an agent leaves it that dies between the intent and the spawn.
  await mkdir(join(made.stateDirectory, 'process-1'))
  assert.equal(await driver.adopt(made), undefined)
  await assert.rejects(driver.start(made, { signal }), /was given up/)
})

test('an attempt whose agent died before the spawn can be started by the next', async (t) => {
  const { driver, plan } = await rig(t)
  const made = await plan({ command: ['/bin/sh', '-c', 'exit 8'] })
  await mkdir(join(made.stateDirectory, 'process-1'))
  assert.equal((await (await driver.start(made, { signal })).exited).code, 8)
})

test('what a task leaves running ends with it', onLinux, async (t) => {
  const { run } = await rig(t)
  const { plan, handle } = await run('(trap "" HUP; exec sleep 1000) & exit 0')
  assert.equal((await handle.exited).code, 0)
  assert.deepEqual(await procTable.membersOf(plan.id, handle.pid), [])
})

test('a command that leaves somebody behind with its output still ends', async (t) => {
  const { run } = await rig(t)
  const { handle } = await run('sleep 1000')
  const command = ['sh', '-c', 'sleep 1000 & echo left; exit 5']
  const execution = await handle.guest.exec({ command, env: {} }, { signal })
  assert.equal(await text(execution.stdout), 'left\n')
  assert.deepEqual(await execution.exited, { code: 5 })
})

test('removing leaves nothing in the directory of the driver', async (t) => {
  const { base, run, driver } = await rig(t)
  const { plan } = await run('sleep 1000')
  assert.deepEqual(await readdir(join(base, 'driver')), [plan.id])
  await driver.remove(plan)
  assert.deepEqual(await readdir(join(base, 'driver')), [])
})

test('a task that has ended holds no control group, and still tells all about its end', onLinux, async (t) => {
  const { driver, plan, again } = await rig(t)
  if (!driver.can.limits) return t.skip('there are no control groups here')
  const hog = await plan({ command: ['/bin/sh', '-c', 'x=$(head -c 400000000 /dev/zero | tr "\\0" x)'] })
  const handle = await driver.start({ ...hog, limits: { ...hog.limits, memory: 2 ** 25 } }, { signal })
  const exit = await handle.exited
  assert.equal(exit.outOfMemory, true)
  assert.deepEqual(globSync(`/sys/fs/cgroup/**/tutti/${hog.id}*`), [])
  assert.deepEqual(await (await again().adopt(hog))?.exited, exit)
  assert.deepEqual(await handle.stats(), { memory: 0, cpuMs: 0, pids: 0 })
})
