import type { Driver, TaskPlan } from '../drivers/driver.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import { type AllocationStatus, isTerminal } from '../model/allocation.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'
import type { NodeFacts } from '../model/node.ts'
import type { AgentEvent, Assignment } from '../wire/messages.ts'
import { planTask, surround, taskId } from './environment.ts'
import { type EventKind, eventKinds } from './event-kinds.ts'
import { type AllocationRecord, type Ledger, newTaskRecord } from './ledger.ts'
import type { Here } from './plan.ts'
import type { Probe } from './probe.ts'
import { LettingGo, type TaskHost, TaskRunner } from './task-runner.ts'
import type { Workspace } from './workspace.ts'

/** What every allocation of an agent works with. */
export interface Parts {
  clock: Clock
  log: Log
  ledger: Ledger
  workspace: Workspace
  drivers: ReadonlyMap<string, Driver>
  probe: Probe
  node: { id: string; name: string; labels: Readonly<Record<string, string>> }
  facts: () => NodeFacts
  /** Its status differs from what was last said. */
  publish: (runner: AllocationRunner) => void
  event: (event: AgentEvent) => void
  /** A driver has prepared something: an image may have come. */
  prepared: () => void
  /** It is no more: nothing is said of it again. */
  forget: (runner: AllocationRunner) => void
  /** Fires when the agent lets go of everything. */
  signal: AbortSignal
}

/**
 * The life of one allocation:
 *
 *   prepare all tasks ─▶ prestart, one by one ─▶ main and sidecars ─▶ decided: complete, failed or stopped
 *                                                                        │
 *              terminal ◀─ poststop, one by one ◀─ sidecars, last first ◀─ mains end
 *
 * All of it can be begun again at any point on the same record: what is done already is passed over.
 */
export class AllocationRunner implements TaskHost {
  readonly record: AllocationRecord
  readonly tasks: readonly TaskRunner[]
  readonly #parts: Parts
  #life: Promise<void> | undefined
  #phase: 'living' | 'removing' | 'closing' = 'living'
  #forgotten = false
  #bell: PromiseWithResolvers<void> | undefined

  constructor(record: AllocationRecord, parts: Parts) {
    this.record = record
    this.#parts = parts
    this.tasks = Object.entries(record.spec.tasks).map(([name, spec]) => {
      record.tasks[name] ??= newTaskRecord()
      return new TaskRunner({
        name,
        spec,
        record: record.tasks[name],
        driver: parts.drivers.get(spec.driver) ?? missingDriver(spec.driver),
        host: this,
      })
    })
  }

  get id(): Assignment['id'] {
    return this.record.assignment.id
  }

  get clock(): Clock {
    return this.#parts.clock
  }

  get job(): JobSpec {
    return this.record.spec
  }

  get generation(): number {
    return this.record.assignment.generation
  }

  get here(): Here {
    if (this.#phase === 'removing') return 'removing'
    if (isTerminal(this.record.phase)) return 'ended'
    return this.record.outcome !== null || this.record.assignment.desired === 'stop' ? 'ending' : 'alive'
  }

  task(name: string): TaskRunner | undefined {
    return this.tasks.find((task) => task.name === name)
  }

  status(): AllocationStatus {
    const { assignment, phase, healthy, outcome, tasks } = this.record
    const status: AllocationStatus = { id: assignment.id, phase, healthy, tasks: {} }
    for (const name in tasks) {
      const task = tasks[name]
      if (task) status.tasks[name] = { ...task.status }
    }
    if (outcome && outcome.message !== '') status.message = outcome.message
    return status
  }

  /** Takes over what an earlier agent left running; before the control plane is asked anything. */
  async resume(): Promise<void> {
    if (!isTerminal(this.record.phase)) await Promise.all(this.tasks.map((task) => task.resume()))
  }

  /** For an agent without a memory: looks for tasks that run already. */
  async seek(): Promise<void> {
    for (const task of this.tasks) {
      await task.seek().catch((error: unknown) => {
        this.#parts.log.warn({ err: error, allocation: this.id, task: task.name }, 'what runs could not be found out')
      })
    }
    if (!this.tasks.some(({ spec, handle }) => spec.role === 'main' && handle)) return
    for (const task of this.tasks) if (task.spec.role === 'prestart') task.skip('it ran under an earlier agent')
  }

  start(): void {
    if (isTerminal(this.record.phase) || this.#phase !== 'living') return
    this.#life ??= this.#live().catch((error: unknown) => {
      if (error instanceof LettingGo) return
      this.#parts.log.error({ err: error, allocation: this.id }, 'an allocation came to grief')
      this.record.outcome = { phase: 'failed', message: `an error of the agent: ${sentence(error)}`.slice(0, 2000) }
      this.record.phase = 'failed'
      this.changed()
    })
  }

  update(assignment: Assignment): void {
    const { desired } = this.record.assignment
    this.record.assignment = desired === 'stop' ? { ...assignment, desired } : assignment
    for (const task of this.tasks) task.poke()
    this.#ring()
  }

  /** Ends it if it lives, and forgets it with all that it has on this node but its volumes. Retried until done. */
  async remove(): Promise<void> {
    if (this.#phase !== 'living') return
    this.#phase = 'removing'
    if (this.record.assignment.desired !== 'stop') this.update({ ...this.record.assignment, desired: 'stop' })
    // Nobody is left to wait for the tasks that run after the others.
    for (const task of this.tasks) if (task.spec.role === 'poststop') task.stop()
    await this.#parts.ledger.save(this.record)
    await this.#life
    const gone = new Set<TaskRunner>()
    for (let tries = 1; !this.#closing; tries++) {
      try {
        for (const task of this.tasks) {
          if (gone.has(task)) continue
          const { directory } = this.#parts.workspace.places(this.id, task.name)
          await task.driver.remove({ id: taskId(this.id, task.name), directory })
          gone.add(task)
        }
        await this.#parts.workspace.remove(this.id)
        // A late note of its status must not bring it back.
        this.#forgotten = true
        await this.#parts.ledger.forget(this.id)
        return
      } catch (error) {
        if (tries === 3) {
          this.event(
            'error',
            eventKinds.removeFailed,
            `allocation ${this.id} could not be removed yet: ${sentence(error)}`,
          )
        }
        this.#parts.log.warn({ err: error, allocation: this.id }, 'an allocation could not be removed; trying again')
        await this.clock
          .sleep(Math.min(60_000, 500 * 2 ** Math.min(tries, 10)), { signal: this.#parts.signal })
          .catch(() => {})
      }
    }
  }

  /** Lets go: what runs goes on without us. */
  async close(): Promise<void> {
    this.#phase = 'closing'
    await Promise.all(this.tasks.map((task) => task.close()))
    this.#ring()
    await this.#life
  }

  async prepare(task: TaskRunner, { signal, again }: { signal: AbortSignal; again: boolean }): Promise<void> {
    const { workspace } = this.#parts
    const { name, spec, driver } = task
    const progress = (message: string) => {
      task.record.status.message = message.slice(0, 2000)
      this.changed()
    }
    const places = workspace.places(this.id, name)
    await workspace.make(places, spec)
    const whole = this.#surround(task)
    if (again) return await driver.prepare(await this.plan(task, task.record.attempt + 1), { signal, progress })
    const fetching = spec.artifacts.length === 0 ? undefined : this.#fetch(task, whole.spec, { signal, progress })
    // An image can be pulled beside the fetch, unless a template adds to the environment. Whoever runs what is in the
    // task directory must wait until it is there.
    const driverFirst = driver.can.images && !spec.templates.some(({ env }) => env)
    const preparing = async () => {
      await driver.prepare(await this.plan(task, task.record.attempt + 1), { signal, progress })
      if (driver.can.images) this.#parts.prepared()
    }
    if (driverFirst) {
      await both(preparing(), fetching)
      if (spec.templates.length > 0) await workspace.render(places, whole.spec, whole.known)
      return
    }
    await fetching
    task.record.env = await workspace.render(places, whole.spec, whole.known)
    await preparing()
  }

  async #fetch(
    task: TaskRunner,
    spec: TaskSpec,
    { signal, progress }: { signal: AbortSignal; progress: (message: string) => void },
  ): Promise<void> {
    const places = this.#parts.workspace.places(this.id, task.name)
    await this.#parts.workspace.fetch(places, spec, {
      signal,
      progress: ({ message, done }) => {
        progress(message)
        if (done) this.event('info', eventKinds.artifactFetched, message, task.name)
      },
    })
  }

  async plan(task: TaskRunner, attempt: number): Promise<TaskPlan> {
    const { workspace } = this.#parts
    const { around, places, ...whole } = this.#surround(task)
    const mounts = whole.spec.mounts.length === 0 ? [] : await workspace.mounts(this.job, whole.spec)
    const { stateDirectory, output } = places
    return planTask(around, { attempt, stateDirectory, output, mounts }, whole)
  }

  #surround(task: TaskRunner) {
    const { workspace, node, facts } = this.#parts
    const places = workspace.places(this.id, task.name)
    const around = {
      node,
      facts: facts(),
      assignment: this.record.assignment,
      spec: this.job,
      task: task.name,
      directory: places.directory,
      volumes: task.spec.mounts.length === 0 ? {} : workspace.volumes(this.job, task.spec),
      templateEnv: task.record.env,
    }
    return { ...surround(around), around, places }
  }

  checks(_task: TaskRunner): { probe: Probe; ports: Record<string, number>; address: string } {
    return { probe: this.#parts.probe, ports: this.record.assignment.ports, address: this.#parts.facts().address }
  }

  save(): Promise<void> {
    if (this.#forgotten) return Promise.resolve()
    return this.#parts.ledger.save(this.record)
  }

  changed(): void {
    this.#judge()
    this.record.noted = false
    this.save().catch((error: unknown) => {
      this.#parts.log.error({ err: error, allocation: this.id }, 'a status could not be written down')
    })
    this.#parts.publish(this)
  }

  event(level: AgentEvent['level'], kind: EventKind, message: string, task?: string): void {
    const event: AgentEvent = {
      at: this.clock.now(),
      level,
      kind,
      message: message.slice(0, 2000),
      allocation: this.id,
    }
    this.#parts.event(task === undefined ? event : { ...event, task })
  }

  get #closing(): boolean {
    return this.#phase === 'closing'
  }

  async #live(): Promise<void> {
    if (this.record.outcome === null) await this.#work()
    await this.#wind()
    const { outcome } = this.record
    if (outcome === null) throw new Error('an allocation ended without an outcome')
    this.record.phase = outcome.phase
    for (const name in this.record.tasks) {
      const task = this.record.tasks[name]
      if (task) task.plan = null
    }
    this.changed()
  }

  /** Until it is decided how the allocation ends. */
  async #work(): Promise<void> {
    if (this.#stopWanted) return this.#decide('stopped', '')
    const prestart = this.#of('prestart')
    const body = this.tasks.filter(({ spec }) => spec.role === 'main' || spec.role === 'sidecar')
    if (this.record.phase === 'pending') this.record.phase = 'preparing'
    if (!(await this.#all(this.tasks, (task) => task.prepare()))) return
    for (const task of prestart) if (!(await this.#all([task], () => task.run()))) return
    const mains = body.filter(({ spec }) => spec.role === 'main')
    const running = body.map((task) => this.#watched(task.run()))
    while (this.record.outcome === null) {
      if (this.#closing) {
        await Promise.allSettled(running)
        throw new LettingGo()
      }
      const failed = body.find(({ record }) => record.step === 'failed')
      if (this.#stopWanted) this.#decide('stopped', '')
      else if (failed) this.#decide('failed', failureOf(failed))
      else if (mains.every(({ record }) => record.step === 'done')) this.#decide('complete', '')
      else await this.#rung()
    }
  }

  /** False once the outcome is decided; what was asked of the tasks may then still be ending. */
  async #all(tasks: readonly TaskRunner[], ask: (task: TaskRunner) => Promise<void>): Promise<boolean> {
    let open = tasks.length
    for (const task of tasks) {
      void this.#watched(ask(task)).finally(() => {
        open -= 1
        this.#ring()
      })
    }
    for (;;) {
      if (this.#closing) throw new LettingGo()
      const failed = tasks.find(({ record }) => record.step === 'failed')
      if (this.#stopWanted) this.#decide('stopped', '')
      else if (failed) this.#decide('failed', failureOf(failed))
      if (this.record.outcome !== null) return false
      if (open === 0) return true
      await this.#rung()
    }
  }

  /** Ends what still runs, in order, and runs what comes after. */
  async #wind(): Promise<void> {
    const first = [...this.#of('prestart'), ...this.#of('main')]
    for (const task of first) task.stop()
    await this.#finished(first)
    for (const task of this.#of('sidecar').reverse()) {
      task.stop()
      await this.#finished([task])
    }
    // With nothing begun there is nothing to clean up after.
    const begun = this.tasks.some(({ record }) => record.attempt > 0)
    for (const task of this.#of('poststop')) {
      if (!begun || this.#phase === 'removing') task.stop()
      await this.#finished([task])
    }
  }

  async #finished(tasks: readonly TaskRunner[]): Promise<void> {
    await Promise.all(tasks.map((task) => (task.final ? undefined : task.run())))
  }

  /** A task's promise whose failure is looked at elsewhere; rings when it settles. */
  async #watched(promise: Promise<void>): Promise<void> {
    try {
      await promise
    } catch (error) {
      if (!(error instanceof LettingGo)) {
        this.#parts.log.error({ err: error, allocation: this.id }, 'a task came to grief')
        this.#decide('failed', `an error of the agent: ${sentence(error)}`)
      }
    } finally {
      this.#ring()
    }
  }

  #decide(phase: 'complete' | 'failed' | 'stopped', message: string): void {
    if (this.record.outcome !== null) return
    this.record.outcome = { phase, message: message.slice(0, 2000) }
    this.#ring()
  }

  get #stopWanted(): boolean {
    return this.record.assignment.desired === 'stop'
  }

  #of(role: TaskSpec['role']): TaskRunner[] {
    return this.tasks.filter(({ spec }) => spec.role === role)
  }

  /** Phase and health follow from the tasks. */
  #judge(): void {
    const { record } = this
    let started = true
    let healthy = true
    for (const task of this.tasks) {
      const { role } = task.spec
      if (role !== 'main' && role !== 'sidecar') continue
      const { status, step } = task.record
      if (status.startedAt === undefined) started = false
      if (!(step === 'running' && status.healthy !== false) && step !== 'done') healthy = false
    }
    if (started && record.outcome === null && (record.phase === 'preparing' || record.phase === 'pending'))
      record.phase = 'running'
    record.healthy = healthy && record.phase === 'running' && record.outcome === null
  }

  #ring(): void {
    this.#bell?.resolve()
  }

  async #rung(): Promise<void> {
    this.#bell = Promise.withResolvers()
    await this.#bell.promise
    this.#bell = undefined
  }
}

export function newRecord(assignment: Assignment, spec: JobSpec): AllocationRecord {
  const tasks = Object.fromEntries(Object.keys(spec.tasks).map((name) => [name, newTaskRecord()]))
  return { assignment, spec, phase: 'pending', outcome: null, healthy: false, tasks, noted: false }
}

function failureOf(task: TaskRunner): string {
  return `task "${task.name}" ${task.record.status.message ?? 'failed'}`
}

/** Waits for both, and for the other when one fails, so that nothing goes on unseen. */
async function both(one: Promise<void>, other: Promise<void> | undefined): Promise<void> {
  const results = await Promise.allSettled([one, other])
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

function missingDriver(name: string): Driver {
  const refuse = async () => {
    throw new Fault('invalid', `this node's agent has no driver "${name}"`)
  }
  return {
    name,
    can: { exec: false, terminal: false, signals: false, stats: false, limits: false, images: false },
    facts: async () => ({ healthy: false, reason: 'not part of this agent', attributes: {} }),
    prepare: refuse,
    start: refuse,
    adopt: async () => undefined,
    remove: async () => {},
  }
}
