import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, type TestContext, test } from 'node:test'
import type { Capabilities } from '../../src/drivers/driver.ts'
import { Fault } from '../../src/model/fault.ts'
import {
  DriverWorld,
  exec,
  finish,
  type MakeDriver,
  outputOf,
  processesOf,
  remainsOf,
  startInAgentAndKillIt,
  type TaskFragment,
  until,
  untilOutput,
} from './driver-world.ts'

/**
 * What every driver promises, as a test suite. Capabilities decide which parts run; a part that does not is skipped
 * with the reason in its title.
 */
export async function driverConformance(name: string, makeDriver: MakeDriver, options: ConformanceOptions) {
  const full = options.variant ? `${name} (${options.variant})` : name
  if (options.skip !== undefined) {
    test(`driver ${full}: skipped, ${options.skip}`, { skip: options.skip }, () => {})
    return
  }
  const probe = join(tmpdir(), `tutti-probe-${process.pid}`)
  await mkdir(probe, { recursive: true })
  const { can } = await makeDriver(probe)
  const suite = new Suite(name, can, makeDriver, options)
  describe(`driver ${full}`, () => {
    lives(suite)
    outlives(suite)
    ends(suite)
    runsPrograms(suite)
    limits(suite)
    execs(suite)
    terminals(suite)
  })
}

export interface ConformanceOptions {
  /** Which of its ways, where a driver has several. */
  variant?: string
  behaviours: Behaviours
  /** A task that runs this POSIX shell script in an environment with the usual small tools. Absent: there are no programs. */
  shell?: ((script: string) => TaskFragment) | undefined
  /** A program that is not there. */
  missing: TaskFragment
  /** What runs in it can be found in this machine's /proc, as itself and with its number. */
  inThisProc?: boolean
  /** False: the process with the handle's number is an init above the program. */
  programIsFirst?: boolean
  /** URL of a module whose `makeDriver` does what `makeDriver` does, for an agent that gets killed. */
  module?: string
  /** Why none of it can run here. */
  skip?: string | undefined
}

/** The same tasks for drivers with a shell and for those without. */
export interface Behaviours {
  /** Ends at once with this code. */
  exits(code: number): TaskFragment
  /** Says `up` and runs until it gets SIGTERM, which it obeys. */
  waits(): TaskFragment
  /** Says `up` and takes no notice of SIGTERM. */
  stubborn(): TaskFragment
  /** Writes this text and a line end to stdout, and ends with 0. */
  says(text: string): TaskFragment
}

/** Behaviours by a shell. */
export function shellBehaviours(shell: (script: string) => TaskFragment): Behaviours {
  return {
    exits: (code) => shell(`exit ${code}`),
    waits: () => shell('echo up; while :; do sleep 0.1; done'),
    stubborn: () => shell('trap "" TERM; echo up; while :; do sleep 0.1; done'),
    says: (text) => shell(`echo '${text}'`),
  }
}

type Body = (world: DriverWorld, t: TestContext) => Promise<void>

class Suite {
  readonly name: string
  readonly can: Capabilities
  readonly options: ConformanceOptions
  readonly #make: MakeDriver

  constructor(name: string, can: Capabilities, make: MakeDriver, options: ConformanceOptions) {
    this.name = name
    this.can = can
    this.options = options
    this.#make = make
  }

  /** One test in a world of its own; `needs` names what must be so, and why not when it is not. */
  test(title: string, needs: Needs, body: Body): void {
    const lacking = Object.entries(needs).find(([, there]) => !there)
    if (lacking) {
      test(`${title} (skipped: ${lacking[0]})`, { skip: lacking[0] }, () => {})
      return
    }
    test(title, { timeout: 120_000 }, async (t) => body(await DriverWorld.open(t, this.#make), t))
  }

  get needsShell(): Needs {
    return { 'this driver runs no programs': this.options.shell !== undefined }
  }

  get needsProc(): Needs {
    return { 'its processes are not visible in /proc': this.options.inThisProc === true }
  }

  shell(script: string): TaskFragment {
    assert.ok(this.options.shell)
    return this.options.shell(script)
  }

  /** This very argument vector. */
  program(program: string, ...args: string[]): TaskFragment {
    return { ...this.shell(':'), command: program, args }
  }
}

/** What must be so, by the reason for skipping when it is not. */
type Needs = Record<string, boolean>

function lives(suite: Suite): void {
  const { behaviours } = suite.options

  suite.test('facts say whether tasks can run here', {}, async ({ driver }) => {
    const facts = await driver.facts()
    assert.ok(facts.healthy, facts.reason ?? 'it does not say why')
    assert.equal(driver.name, suite.name)
  })

  for (const code of [0, 1, 77]) {
    suite.test(`a task that ends with ${code} is reported with ${code}`, {}, async (world) => {
      const { handle } = await world.run(behaviours.exits(code))
      const exit = await handle.exited
      assert.equal(exit.code, code)
      assert.equal(exit.signal, undefined)
      assert.equal(exit.unknown, undefined)
      assert.ok(!exit.outOfMemory)
    })
  }

  suite.test('output of every attempt is appended to the same file', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.says('one'))
    await handle.exited
    const second = await world.start(await world.plan(behaviours.says('two'), { of: plan, attempt: 2 }))
    assert.equal((await second.exited).code, 0)
    assert.equal(await outputOf(plan), 'one\ntwo\n')
  })

  suite.test('starting an attempt that runs takes it over instead of running it twice', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.waits())
    await untilOutput(plan, 'up')
    const again = await world.start(plan)
    assert.equal(again.pid, handle.pid)
    const other = await world.start(plan, await world.again())
    assert.equal(other.pid, handle.pid)
    assert.equal(await outputOf(plan), 'up\n')
    await handle.stop({ signal: 'SIGTERM', graceMs: 20_000 })
    assert.deepEqual(await again.exited, await handle.exited)
    assert.equal((await other.exited).code, (await handle.exited).code)
  })

  suite.test('two starts of one attempt at the same moment run it once', {}, async (world) => {
    const plan = await world.plan(behaviours.waits())
    const [one, other] = await Promise.all([world.start(plan), world.start(plan)])
    await untilOutput(plan, 'up')
    assert.equal(one.pid, other.pid)
    assert.equal(await outputOf(plan), 'up\n')
  })

  suite.test('a start with an aborted signal leaves nothing', {}, async (world) => {
    const plan = await world.plan(behaviours.waits())
    await assert.rejects(world.driver.start(plan, { signal: AbortSignal.abort(new Error('enough')) }), /enough/)
    assert.deepEqual(await remainsOf(plan), [])
  })

  suite.test('a missing program is refused with a sentence that names it, and leaves nothing', {}, async (world) => {
    const plan = await world.plan(suite.options.missing)
    await assert.rejects(world.start(plan), (error) => {
      assert.ok(error instanceof Fault, String(error))
      assert.equal(error.code, 'invalid')
      assert.match(error.message, /no-such-program/)
      return true
    })
    await world.driver.remove(plan)
    assert.deepEqual(await remainsOf(plan), [])
  })
}

function outlives(suite: Suite): void {
  const { behaviours, module } = suite.options

  suite.test('an attempt that was never started is not found', {}, async (world) => {
    const plan = await world.plan(behaviours.waits())
    assert.equal(await world.driver.adopt(plan), undefined)
    assert.deepEqual(await remainsOf(plan), [])
  })

  suite.test('a restarted agent finds the running task, and gets its exit', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.waits())
    await untilOutput(plan, 'up')
    const { pid, startedAt } = handle
    await handle[Symbol.asyncDispose]()
    const found = await (await world.again()).adopt(plan)
    assert.ok(found)
    assert.equal(found.pid, pid)
    assert.equal(found.startedAt, startedAt)
    await found.stop({ signal: 'SIGTERM', graceMs: 20_000 })
    const exit = await found.exited
    assert.equal(exit.code, 143)
    assert.equal(exit.signal, 'SIGTERM')
  })

  suite.test('a restarted agent learns how a task ended while it was away', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.exits(77))
    await handle.exited
    await handle[Symbol.asyncDispose]()
    const found = await (await world.again()).adopt(plan)
    assert.ok(found)
    assert.equal((await found.exited).code, 77)
    assert.equal((await found.exited).unknown, undefined)
  })

  suite.test('another attempt of the same task is not taken for the one that ran', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.exits(0))
    await handle.exited
    assert.equal(await world.driver.adopt({ ...plan, attempt: 2 }), undefined)
  })

  suite.test('output goes on after a change of agents', suite.needsShell, async (world) => {
    const { plan, handle } = await world.run(
      suite.shell('echo one; while [ ! -e "$TUTTI_TASK_DIR/go" ]; do sleep 0.05; done; echo two; exit 5'),
    )
    await untilOutput(plan, 'one')
    await handle[Symbol.asyncDispose]()
    const found = await (await world.again()).adopt(plan)
    await writeFile(join(plan.directory, 'go'), '')
    assert.equal((await found?.exited)?.code, 5)
    assert.equal(await outputOf(plan), 'one\ntwo\n')
  })

  const killable = { ...suite.needsShell, 'its state lives in this process': module !== undefined }
  suite.test('a task survives kill -9 of its agent and is found by the next', killable, async (world) => {
    const plan = await world.plan(
      suite.shell('echo up; while [ ! -e "$TUTTI_TASK_DIR/go" ]; do sleep 0.05; done; echo still here; exit 33'),
    )
    const pid = await startInAgentAndKillIt(plan, module ?? '', join(world.directory, 'driver'))
    const found = await world.driver.adopt(plan)
    assert.ok(found)
    assert.equal(found.pid, pid)
    await writeFile(join(plan.directory, 'go'), '')
    assert.equal((await found.exited).code, 33)
    assert.equal(await outputOf(plan), 'up\nstill here\n')
  })

  suite.test('what ended after kill -9 of its agent still has its exit code', killable, async (world) => {
    const plan = await world.plan(
      suite.shell('cd "$TUTTI_TASK_DIR"; while [ ! -e go ]; do sleep 0.05; done; echo gone; echo >gone; exit 34'),
    )
    await startInAgentAndKillIt(plan, module ?? '', join(world.directory, 'driver'))
    await writeFile(join(plan.directory, 'go'), '')
    await until('the task to be over', async () => existsSync(join(plan.directory, 'gone')))
    const found = await world.driver.adopt(plan)
    assert.equal((await found?.exited)?.code, 34)
    assert.equal(await outputOf(plan), 'gone\n')
  })

  suite.test('what an agent killed with -9 had started can be removed by the next', killable, async (world) => {
    const plan = await world.plan(suite.shell('(trap "" TERM HUP; sleep 1000) & echo up; sleep 1000'))
    await startInAgentAndKillIt(plan, module ?? '', join(world.directory, 'driver'))
    await world.driver.remove(plan)
    assert.deepEqual(await remainsOf(plan), [])
  })
}

function ends(suite: Suite): void {
  const { behaviours } = suite.options

  suite.test('stop asks with a signal, and the exit says which', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.waits())
    await untilOutput(plan, 'up')
    await handle.stop({ signal: 'SIGTERM', graceMs: 60_000 })
    const exit = await handle.exited
    assert.equal(exit.code, 143)
    assert.equal(exit.signal, 'SIGTERM')
  })

  suite.test('stop makes a task end that does not listen', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.stubborn())
    await untilOutput(plan, 'up')
    await handle.stop({ signal: 'SIGTERM', graceMs: 100 })
    const exit = await handle.exited
    assert.equal(exit.code, 137)
    assert.equal(exit.signal, 'SIGKILL')
  })

  suite.test('stop without grace is at once', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.stubborn())
    await untilOutput(plan, 'up')
    await handle.stop({ signal: 'SIGKILL', graceMs: 60_000 })
    assert.equal((await handle.exited).code, 137)
  })

  suite.test('stop of a task that has ended is fine', {}, async (world) => {
    const { handle } = await world.run(behaviours.exits(3))
    await handle.exited
    await handle.stop({ signal: 'SIGTERM', graceMs: 1000 })
    assert.equal((await handle.exited).code, 3)
  })

  suite.test('remove ends a running task, frees all it held, and may be called again', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.waits(), { limits: { memory: 2 ** 28, cores: 0.5, pids: 50 } })
    await untilOutput(plan, 'up')
    await world.driver.remove(plan)
    assert.equal((await handle.exited).code !== 0, true)
    assert.deepEqual(await remainsOf(plan), [])
    await world.driver.remove(plan)
    await (await world.again()).remove(plan)
  })

  suite.test('remove of a task that was never there is fine', {}, async (world) => {
    const plan = await world.plan(behaviours.waits())
    await world.driver.remove(plan)
    assert.deepEqual(await remainsOf(plan), [])
  })

  suite.test('remove leaves no files of any attempt', {}, async (world) => {
    const { plan, handle } = await world.run(behaviours.exits(1))
    await handle.exited
    const second = await world.start({ ...plan, attempt: 2 })
    await second.exited
    await world.driver.remove(plan)
    assert.deepEqual(await remainsOf(plan), [])
  })

  const orphans = { ...suite.needsShell, ...suite.needsProc }
  const breakOut = `
    ( ( trap '' TERM HUP INT; echo double > "$TUTTI_TASK_DIR/double"; exec sleep 1000 ) & )
    if command -v setsid > /dev/null; then ( setsid sh -c 'trap "" TERM HUP INT; exec sleep 1000' & ); fi
    while [ ! -s "$TUTTI_TASK_DIR/double" ]; do sleep 0.05; done`

  suite.test('remove leaves no orphan, not even one in a session of its own', orphans, async (world) => {
    const { plan, handle } = await world.run(suite.shell(`${breakOut}; echo up; while :; do sleep 0.1; done`))
    await untilOutput(plan, 'up')
    await world.driver.remove(plan)
    await handle.exited
    assert.deepEqual(await remainsOf(plan), [])
  })

  suite.test('stop takes along what the task started', orphans, async (world) => {
    const { plan, handle } = await world.run(
      suite.shell(`${breakOut}; echo up; trap '' TERM; while :; do sleep 0.1; done`),
    )
    await untilOutput(plan, 'up')
    await handle.stop({ signal: 'SIGTERM', graceMs: 100 })
    await handle.exited
    await until('all its processes to be gone', () => processesOf(plan).length === 0)
  })

  suite.test('remove takes orphans of a task that ended by itself', orphans, async (world) => {
    const { plan, handle } = await world.run(suite.shell(`${breakOut}; exit 4`))
    assert.equal((await handle.exited).code, 4)
    await world.driver.remove(plan)
    assert.deepEqual(await remainsOf(plan), [])
  })
}

function runsPrograms(suite: Suite): void {
  const { needsShell: needs } = suite

  suite.test('arguments arrive as they are, quotes, line ends and all', needs, async (world) => {
    const awkward = ['', ' two  words ', `it's "quoted"`, 'a\nb', '$HOME `id` $(id) \\', 'ünï → 🎺', '-n', '*']
    const script = 'for argument in "$@"; do printf "<%s>\\n" "$argument"; done'
    const { plan, handle } = await world.run(suite.program('/bin/sh', '-c', script, 'sh', ...awkward))
    assert.equal((await handle.exited).code, 0)
    assert.equal(await outputOf(plan), awkward.map((argument) => `<${argument}>\n`).join(''))
  })

  suite.test('the environment arrives as it is', needs, async (world) => {
    const env = { PLAIN: 'yes', SPACES: ' a  b ', QUOTES: `it's "so"`, LINES: 'a\nb\n', UNICODE: 'ünï → 🎺', EMPTY: '' }
    const script = Object.keys(env)
      .map((name) => `printf '<%s>' "$${name}"`)
      .join('; ')
    const { plan, handle } = await world.run(suite.shell(script), { env })
    assert.equal((await handle.exited).code, 0)
    assert.equal(
      await outputOf(plan),
      Object.values(env)
        .map((value) => `<${value}>`)
        .join(''),
    )
  })

  suite.test("nothing of the agent's own environment reaches a task", needs, async (world, t) => {
    process.env['TUTTI_AGENT_SECRET'] = 'hidden'
    t.after(() => {
      delete process.env['TUTTI_AGENT_SECRET']
    })
    const { plan, handle } = await world.run(suite.shell('env'))
    await handle.exited
    assert.doesNotMatch(await outputOf(plan), /hidden/)
    assert.match(await outputOf(plan), new RegExp(`TUTTI_TASK_ID=${plan.id}`))
  })

  suite.test('a task finds its directory, and starts where its spec says', needs, async (world) => {
    const { plan, handle } = await world.run({
      ...suite.shell('pwd; echo there > "$TUTTI_TASK_DIR/file"'),
      cwd: '/usr',
    })
    assert.equal((await handle.exited).code, 0)
    assert.equal(await outputOf(plan), '/usr\n')
    assert.equal(await readFile(join(plan.directory, 'file'), 'utf8'), 'there\n')
  })

  suite.test('a relative working directory lies in the task directory', needs, async (world) => {
    const plan = await world.plan({ ...suite.shell('pwd; cat here'), cwd: 'some/where' })
    await mkdir(join(plan.directory, 'some/where'), { recursive: true })
    await writeFile(join(plan.directory, 'some/where/here'), 'found')
    const handle = await world.start(plan)
    assert.equal((await handle.exited).code, 0)
    assert.match(await outputOf(plan), /\/some\/where\nfound$/)
  })

  suite.test('stdout and stderr go to their own files', needs, async (world) => {
    const { plan, handle } = await world.run(suite.shell('echo out; echo err >&2'))
    await handle.exited
    assert.equal(await outputOf(plan, 'stdout'), 'out\n')
    assert.equal(await outputOf(plan, 'stderr'), 'err\n')
  })

  suite.test('output files may be cut while the task writes on', needs, async (world) => {
    const { plan, handle } = await world.run(
      suite.shell('echo before; while [ ! -e "$TUTTI_TASK_DIR/go" ]; do sleep 0.05; done; echo after'),
    )
    await untilOutput(plan, 'before')
    await writeFile(plan.output.stdout, '')
    await writeFile(join(plan.directory, 'go'), '')
    await handle.exited
    assert.equal(await outputOf(plan), 'after\n')
  })

  suite.test('stdin is empty', needs, async (world) => {
    const { plan, handle } = await world.run(suite.shell('cat; echo end'))
    assert.equal((await handle.exited).code, 0)
    assert.equal(await outputOf(plan), 'end\n')
  })

  suite.test('death by a signal is reported as 128 and its number, with its name', needs, async (world) => {
    const { handle } = await world.run(suite.shell('kill -USR1 $$; sleep 10'))
    const exit = await handle.exited
    assert.deepEqual([exit.code, exit.signal], [138, 'SIGUSR1'])
  })

  const signalled = { ...needs, 'this driver cannot send signals': suite.can.signals }
  suite.test('signals reach the main process', signalled, async (world) => {
    const { plan, handle } = await world.run(
      suite.shell('trap "echo hup" HUP; trap "echo int; exit 9" INT; echo up; while :; do sleep 0.05; done'),
    )
    await untilOutput(plan, 'up')
    await handle.signal('SIGHUP')
    await untilOutput(plan, 'hup')
    await handle.signal('SIGINT')
    assert.equal((await handle.exited).code, 9)
  })

  suite.test('a task can obey every signal that stop may ask with', signalled, async (world) => {
    for (const [signal, code] of Object.entries({ SIGINT: 130, SIGHUP: 129, SIGQUIT: 131, SIGUSR2: 140 })) {
      const { plan, handle } = await world.run(suite.shell('echo up; exec sleep 1000'))
      await untilOutput(plan, 'up')
      await until('sleep to be the program', async () => {
        const { inThisProc, programIsFirst = true } = suite.options
        if (!inThisProc || !programIsFirst || handle.pid === undefined) return true
        return (await readFile(`/proc/${handle.pid}/comm`, 'utf8')).startsWith('sleep')
      })
      await handle.signal(signal)
      assert.deepEqual([(await handle.exited).code, (await handle.exited).signal], [code, signal])
    }
  })
}

function limits(suite: Suite): void {
  const limited = { ...suite.needsShell, 'limits are not enforced here': suite.can.limits }

  suite.test('a task that takes more memory than it may is ended, and the exit says so', limited, async (world) => {
    const hog = suite.shell('x=$(head -c 400000000 /dev/zero | tr "\\0" x); echo "got ${#x}"')
    const { plan, handle } = await world.run(hog, { limits: { memory: 32 * 2 ** 20 } })
    const exit = await handle.exited
    assert.notEqual(exit.code, 0)
    assert.equal(exit.outOfMemory, true)
    assert.doesNotMatch(await outputOf(plan), /got/)
  })

  suite.test('a task cannot have more processes than it may', limited, async (world) => {
    const many = suite.shell('i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; echo unlimited')
    const { plan, handle } = await world.run(many, { limits: { pids: 20 } })
    await until('it to meet the limit', async () => (await outputOf(plan, 'stderr')) !== '')
    await handle.stop({ signal: 'SIGKILL', graceMs: 0 })
    assert.doesNotMatch(await outputOf(plan), /unlimited/)
  })

  const measured = { ...suite.needsShell, 'this driver has no stats': suite.can.stats }
  suite.test('stats tell memory, CPU time and processes', measured, async (world) => {
    // Busy until told otherwise: some systems count CPU time in whole seconds.
    const busy = 'sleep 1000 & echo up; while [ ! -e "$TUTTI_TASK_DIR/enough" ]; do :; done; wait'
    const { plan, handle } = await world.run(suite.shell(busy))
    await untilOutput(plan, 'up')
    const stats = await until('CPU time', async () => {
      const now = await handle.stats()
      return now.cpuMs > 0 ? now : undefined
    })
    await writeFile(join(plan.directory, 'enough'), '')
    assert.ok(stats.memory > 10_000 && stats.memory < 2 ** 30, `${stats.memory} bytes`)
    assert.ok(stats.pids >= 2 && stats.pids < 20, `${stats.pids} processes`)
    assert.ok(stats.cpuMs < 60_000, `${stats.cpuMs} ms of CPU`)
  })
}

function execs(suite: Suite): void {
  const needs = { ...suite.needsShell, 'this driver has no exec': suite.can.exec }
  const idle = () => suite.options.behaviours.waits()

  suite.test('a command runs inside, with its exit code', needs, async (world) => {
    const { handle } = await world.run(idle())
    const result = await exec(handle, { command: ['sh', '-c', 'echo out; echo err >&2; exit 42'] })
    assert.deepEqual(result, { stdout: 'out\n', stderr: 'err\n', code: 42 })
  })

  suite.test('a command inside reads what it is given', needs, async (world) => {
    const { handle } = await world.run(idle())
    const input = 'line\n'.repeat(100_000)
    const result = await exec(handle, { command: ['cat'] }, input)
    assert.equal(result.code, 0)
    assert.equal(result.stdout.length, input.length)
    assert.ok(result.stdout === input)
  })

  suite.test(
    'a command inside has the environment of the task and its own, and its directory',
    needs,
    async (world) => {
      const { handle } = await world.run(idle(), { env: { OF_TASK: 'task', BOTH: 'task' } })
      const command = ['sh', '-c', 'printf "%s|" "$OF_TASK" "$BOTH" "$OWN"; pwd']
      const own = await exec(handle, { command, env: { OWN: `it's\nown`, BOTH: 'own' }, cwd: '/usr' })
      assert.equal(own.stdout, `task|own|it's\nown|/usr\n`)
      const there = await exec(handle, { command: ['sh', '-c', 'cd "$TUTTI_TASK_DIR" && pwd'] })
      assert.equal(there.code, 0)
      assert.notEqual(there.stdout, '')
    },
  )

  suite.test('arguments of a command inside arrive as they are', needs, async (world) => {
    const { handle } = await world.run(idle())
    const awkward = ['', 'a b', `it's "q"`, 'x\ny', '$HOME', '🎺', '--help']
    const result = await exec(handle, { command: ['sh', '-c', 'printf "<%s>" "$@"', 'sh', ...awkward] })
    assert.equal(result.stdout, awkward.map((argument) => `<${argument}>`).join(''))
  })

  suite.test('a program that is not there is refused by name', needs, async (world) => {
    const { handle } = await world.run(idle())
    await assert.rejects(exec(handle, { command: ['no-such-program', 'x'] }), (error) => {
      assert.ok(error instanceof Fault, String(error))
      assert.equal(error.code, 'invalid')
      assert.match(error.message, /no-such-program/)
      return true
    })
  })

  suite.test('a command that dies of a signal reports 128 and its number', needs, async (world) => {
    const { handle } = await world.run(idle())
    assert.equal((await exec(handle, { command: ['sh', '-c', 'kill -TERM $$; sleep 10'] })).code, 143)
  })

  suite.test('a command inside can be sent a signal', needs, async (world) => {
    const { handle } = await world.run(idle())
    const { signal } = new AbortController()
    const script = 'trap "echo caught; exit 6" INT; echo ready; while :; do sleep 0.05; done'
    const execution = await handle.guest.exec({ command: ['sh', '-c', script], env: {} }, { signal })
    const ready = once(execution.stdout, 'ready')
    const ended = finish(execution)
    await ready
    execution.kill('SIGINT')
    assert.deepEqual(await ended, { stdout: 'ready\ncaught\n', stderr: '', code: 6 })
  })

  suite.test('aborting kills the command and what it started, not the task', needs, async (world) => {
    const { plan, handle } = await world.run(idle())
    const abort = new AbortController()
    const script =
      'trap "" TERM INT HUP; echo $$ > "$TUTTI_TASK_DIR/exec-pid"; echo ready; sleep 1000 & wait; sleep 1000'
    const request = { command: ['sh', '-c', script], env: { EXEC_MARK: 'mark' } }
    const execution = await handle.guest.exec(request, { signal: abort.signal })
    const ready = once(execution.stdout, 'ready')
    const ended = finish(execution)
    await ready
    abort.abort()
    assert.equal((await ended).code, 137)
    assert.equal((await exec(handle, { command: ['echo', 'alive'] })).stdout, 'alive\n')
    if (suite.options.inThisProc) {
      await until('the command to be gone', () => processesOf(plan).every((pid) => !hasMark(pid)))
    }
  })

  suite.test('a found task can be entered as well', needs, async (world) => {
    const { plan, handle } = await world.run(idle())
    await handle[Symbol.asyncDispose]()
    const found = await (await world.again()).adopt(plan)
    assert.ok(found)
    assert.equal((await exec(found, { command: ['echo', 'in'] })).stdout, 'in\n')
  })

  suite.test('a task that has ended cannot be entered', needs, async (world) => {
    const { handle } = await world.run(suite.options.behaviours.exits(0))
    await handle.exited
    await assert.rejects(exec(handle, { command: ['echo', 'in'] }), (error) => {
      assert.ok(error instanceof Fault, String(error))
      assert.equal(error.code, 'conflict')
      return true
    })
  })
}

function terminals(suite: Suite): void {
  const needs = { ...suite.needsShell, 'this driver has no terminals': suite.can.exec && suite.can.terminal }
  const { signal } = new AbortController()
  const size = { columns: 100, rows: 30 }
  const open = async (world: DriverWorld, script: string) => {
    const { handle } = await world.run(suite.options.behaviours.waits())
    return handle.guest.exec({ command: ['sh', '-c', script], env: { TERM: 'xterm' }, terminal: size }, { signal })
  }

  suite.test('a command with a terminal has one of that size, and its exit code is right', needs, async (world) => {
    const execution = await open(world, 'test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; exit 42')
    assert.equal(execution.stderr, undefined)
    const result = await finish(execution)
    assert.match(result.stdout, /^tty\r?\n30 100\r?\n$/)
    assert.equal(result.code, 42)
  })

  suite.test('a terminal can be resized', needs, async (world) => {
    const execution = await open(world, 'trap "stty size" WINCH; echo ready; read line; stty size; echo end')
    const ready = once(execution.stdout, 'ready')
    const ended = finish(execution)
    await ready
    execution.resize({ columns: 120, rows: 40 })
    execution.stdin.write('go\n')
    const result = await ended
    assert.match(result.stdout, /40 120/)
    assert.equal(result.code, 0)
  })

  suite.test('Ctrl-C in a terminal interrupts the command', needs, async (world) => {
    const execution = await open(world, 'trap "echo caught; exit 9" INT; echo ready; while :; do sleep 0.05; done')
    const ready = once(execution.stdout, 'ready')
    const ended = finish(execution)
    await ready
    execution.stdin.write('\x03')
    const result = await ended
    assert.match(result.stdout, /caught/)
    assert.equal(result.code, 9)
  })

  suite.test('a terminal carries much output to its end', needs, async (world) => {
    const execution = await open(world, 'i=0; while [ $i -lt 5000 ]; do echo "line $i"; i=$((i+1)); done; echo last')
    const result = await finish(execution)
    assert.equal(result.code, 0)
    assert.equal(result.stdout.split('\n').length, 5002)
    assert.match(result.stdout, /last\r?\n$/)
  })

  suite.test('the end of input in a terminal ends a shell', needs, async (world) => {
    const execution = await open(world, 'echo ready; cat; echo done; exit 3')
    const ready = once(execution.stdout, 'ready')
    const ended = finish(execution)
    await ready
    execution.stdin.write('hello\n\x04')
    const result = await ended
    assert.match(result.stdout, /hello\r?\nhello\r?\ndone/)
    assert.equal(result.code, 3)
  })

  suite.test('a program that is not there is refused with a terminal as well', needs, async (world) => {
    const { handle } = await world.run(suite.options.behaviours.waits())
    const request = { command: ['no-such-program'], env: {}, terminal: size }
    await assert.rejects(handle.guest.exec(request, { signal }), /no-such-program/)
  })
}

/** Resolves when the stream has said this; others may read it as well, and begin to do so after us: it may be there already. */
async function once(stream: NodeJS.ReadableStream, wanted: string): Promise<void> {
  let said = ''
  stream.on('data', (chunk) => {
    said += chunk
  })
  await until(`"${wanted}" from the command`, () => said.includes(wanted))
}

function hasMark(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').includes('EXEC_MARK=mark')
  } catch {
    return false
  }
}
