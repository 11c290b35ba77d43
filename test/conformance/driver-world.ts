import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { globSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { TestContext } from 'node:test'
import type { z } from 'zod'
import type { Driver, Handle, TaskPlan } from '../../src/drivers/driver.ts'
import type { ExecRequest, Execution } from '../../src/guest/guest.ts'
import { encodeId } from '../../src/model/ids.ts'
import { TaskSpec } from '../../src/model/job.ts'

/** What one conformance test works with: its own directories, its own tasks, and nothing left of them afterwards. */

/** A part of a task spec, the `driver` included, as a person would write it. */
export type TaskFragment = z.input<typeof TaskSpec>

export type MakeDriver = (directory: string) => Driver | Promise<Driver>

export interface PlanParts {
  attempt?: number
  env?: Record<string, string>
  limits?: Partial<TaskPlan['limits']>
  /** The same task again: its plan with another attempt number. */
  of?: TaskPlan
}

const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export class DriverWorld {
  readonly directory: string
  readonly driver: Driver
  readonly #make: MakeDriver
  readonly #plans: TaskPlan[] = []

  private constructor(directory: string, driver: Driver, make: MakeDriver) {
    this.directory = directory
    this.driver = driver
    this.#make = make
  }

  static async open(t: TestContext, make: MakeDriver): Promise<DriverWorld> {
    const directory = await mkdtemp(join(tmpdir(), 'tutti-driver-'))
    await mkdir(join(directory, 'driver'))
    const world = new DriverWorld(directory, await make(join(directory, 'driver')), make)
    t.after(() => world.#close())
    return world
  }

  /** The driver as a restarted agent would have it: on the same state, knowing nothing. */
  async again(): Promise<Driver> {
    return this.#make(join(this.directory, 'driver'))
  }

  async plan(fragment: TaskFragment, { attempt = 1, env = {}, limits = {}, of }: PlanParts = {}): Promise<TaskPlan> {
    if (of) return { ...of, attempt, spec: TaskSpec.parse(fragment) }
    const allocation = encodeId(randomBytes(10))
    const id = `${allocation}-main`
    const base = join(this.directory, id)
    const directory = join(base, 'task')
    const stateDirectory = join(base, 'state')
    const logs = join(base, 'logs')
    for (const made of [directory, stateDirectory, logs]) await mkdir(made, { recursive: true })
    const spec = TaskSpec.parse(fragment)
    const plan: TaskPlan = {
      id,
      job: 'conformance',
      allocation,
      task: 'main',
      attempt,
      spec,
      env: {
        PATH: path,
        HOME: directory,
        LANG: 'C.UTF-8',
        TUTTI_TASK_ID: id,
        TUTTI_TASK_DIR: directory,
        ...spec.env,
        ...env,
      },
      directory,
      stateDirectory,
      limits: { memory: 0, cores: 0, pids: 0, ...limits },
      ports: {},
      mounts: [],
      output: { stdout: join(logs, 'stdout'), stderr: join(logs, 'stderr') },
    }
    this.#plans.push(plan)
    return plan
  }

  /** Prepares and starts it. */
  async start(plan: TaskPlan, driver = this.driver): Promise<Handle> {
    const { signal } = new AbortController()
    await driver.prepare(plan, { signal, progress: () => {} })
    return driver.start(plan, { signal })
  }

  async run(fragment: TaskFragment, parts: PlanParts = {}): Promise<{ plan: TaskPlan; handle: Handle }> {
    const plan = await this.plan(fragment, parts)
    return { plan, handle: await this.start(plan) }
  }

  /** Everything, even of a test that failed half-way. */
  async #close(): Promise<void> {
    try {
      for (const plan of this.#plans) await this.driver.remove(plan)
    } finally {
      await rm(this.directory, { recursive: true, force: true })
    }
  }
}

/** Waits for what must become true; fails with `what` after 30 s, which no correct driver comes near. */
export async function until<T>(what: string, look: () => Promise<T | undefined | false> | T | undefined | false) {
  const start = performance.now()
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    assert.ok(performance.now() - start < 30_000, `waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** What the task has written so far. */
export async function outputOf(plan: TaskPlan, stream: 'stdout' | 'stderr' = 'stdout'): Promise<string> {
  return readFile(plan.output[stream], 'utf8').catch(() => '')
}

export async function untilOutput(plan: TaskPlan, wanted: string, stream: 'stdout' | 'stderr' = 'stdout') {
  await until(`"${wanted}" in ${stream}`, async () => (await outputOf(plan, stream)).includes(wanted))
}

/** Runs a command inside to its end. */
export async function exec(handle: Handle, request: Partial<ExecRequest> & { command: string[] }, input = '') {
  const { signal } = new AbortController()
  const execution = await handle.guest.exec({ env: {}, ...request }, { signal })
  execution.stdin.on('error', () => {})
  execution.stdin.end(input)
  return finish(execution)
}

export async function finish(execution: Execution) {
  const [stdout, stderr, { code }] = await Promise.all([
    text(execution.stdout),
    execution.stderr ? text(execution.stderr) : '',
    execution.exited,
  ])
  return { stdout, stderr, code }
}

/** Living processes that carry the task's id in their environment; only asked where there is /proc. */
export function processesOf(plan: TaskPlan): number[] {
  const needle = `TUTTI_TASK_ID=${plan.id}`
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        if (!readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(needle)) return false
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
        return !/^ [ZX]/.test(stat.slice(stat.lastIndexOf(')') + 1))
      } catch {
        return false
      }
    })
}

/** Processes, cgroups and driver files that a removed task must not leave. */
export async function remainsOf(plan: TaskPlan): Promise<string[]> {
  const cgroups = globSync(`/sys/fs/cgroup/{*,*/*,*/*/*,*/*/*/*}/*${plan.id}*`)
  const files = await readdir(plan.stateDirectory).catch(() => [])
  return [...processesOf(plan).map((pid) => `process ${pid}`), ...cgroups, ...files.map((name) => `state ${name}`)]
}

/** An agent of its own that starts the task and is then killed without a chance to say goodbye. */
export async function startInAgentAndKillIt(plan: TaskPlan, module: string, directory: string): Promise<number> {
  const program = `
    const [module, directory, plan] = process.argv.slice(1)
    const { makeDriver } = await import(module)
    const driver = await makeDriver(directory)
    const { signal } = new AbortController()
    await driver.prepare(JSON.parse(plan), { signal, progress: () => {} })
    const handle = await driver.start(JSON.parse(plan), { signal })
    console.log('pid ' + handle.pid)
    setInterval(() => {}, 1000)`
  const args = ['--no-warnings', '--input-type=module', '-e', program, module, directory, JSON.stringify(plan)]
  const agent = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  const gone = new Promise((resolve) => agent.on('exit', resolve))
  try {
    let said = ''
    for await (const chunk of agent.stdout) {
      said += chunk
      const match = /pid (\d+)\n/.exec(said)
      if (match) return Number(match[1])
    }
    throw new Error(`the agent ended early: ${said}`)
  } finally {
    agent.kill('SIGKILL')
    await gone
  }
}
