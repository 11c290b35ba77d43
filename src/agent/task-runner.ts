import type { Driver, Exit, Handle, TaskPlan } from '../drivers/driver.ts'
import type { Clock } from '../kit/clock.ts'
import { Fault, sentence } from '../model/fault.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'
import type { AgentEvent } from '../wire/messages.ts'
import { type CheckOptions, runChecks } from './checks.ts'
import { type EventKind, eventKinds } from './event-kinds.ts'
import { isFinal, type TaskRecord } from './ledger.ts'
import { decideRestart } from './restart.ts'

/** What an allocation gives to its tasks. */
export interface TaskHost {
  readonly clock: Clock
  readonly job: JobSpec
  /** Rises when a user asks for a restart. */
  readonly generation: number
  /** Puts artifacts and templates in place, and has the driver prepare. */
  prepare(task: TaskRunner, options: { signal: AbortSignal; again: boolean }): Promise<void>
  plan(task: TaskRunner, attempt: number): Promise<TaskPlan>
  checks(task: TaskRunner): Pick<CheckOptions, 'probe' | 'ports' | 'address'>
  /** Resolves once what the records say would survive the agent's death. */
  save(): Promise<void>
  /** Something that others see has changed: written down and reported in time. */
  changed(): void
  event(level: AgentEvent['level'], kind: EventKind, message: string, task: string): void
}

/** Thrown through a runner when the agent lets go of its work, which goes on without it. */
export class LettingGo extends Error {
  constructor() {
    super('the agent is shutting down')
  }
}

/**
 * The life of one task: its attempts, one after the other and never two at once, from preparation to a final step. Where
 * it stands is in its record, which is written before each side effect; so a runner begun on an old record goes on
 * where the last one was, and adopts what it left running.
 */
export class TaskRunner {
  readonly name: string
  readonly spec: TaskSpec
  readonly record: TaskRecord
  readonly driver: Driver
  readonly #host: TaskHost
  #handle: Handle | undefined
  #exit: Exit | undefined
  #unhealthy: string | undefined
  #stopping = false
  #closing = false
  readonly #abort = new AbortController()
  #bell: PromiseWithResolvers<void> | undefined
  #preparing: Promise<void> | undefined
  #running: Promise<void> | undefined

  constructor(options: { name: string; spec: TaskSpec; record: TaskRecord; driver: Driver; host: TaskHost }) {
    this.name = options.name
    this.spec = options.spec
    this.record = options.record
    this.driver = options.driver
    this.#host = options.host
  }

  get final(): boolean {
    return isFinal(this.record.step)
  }

  /** The grip on the running attempt, for whoever wants in. */
  get handle(): Handle | undefined {
    return this.record.step === 'running' && this.#exit === undefined ? this.#handle : undefined
  }

  /** Looks once for the attempt that an earlier agent left. */
  async resume(): Promise<void> {
    if ((this.record.step === 'starting' || this.record.step === 'running') && !this.#handle) {
      await this.#adopt().catch(() => {})
    }
  }

  /**
   * For an agent that lost its memory: takes over an attempt that runs already; whatever else is left of the task ends.
   */
  async seek(): Promise<void> {
    const plan = await this.#host.plan(this, 1)
    const handle = await this.driver.adopt(plan)
    if (handle === undefined) {
      await this.driver.remove({ id: plan.id, directory: plan.directory })
      return
    }
    Object.assign(this.record, { step: 'running', prepared: true, attempt: plan.attempt, plan })
    this.record.generation = this.#host.generation
    this.#hold(handle)
  }

  /** Returns when the task could be started, or will never be. */
  prepare(): Promise<void> {
    this.#preparing ??= this.#until(() => this.record.prepared || this.record.attempt > 0)
    return this.#preparing
  }

  /** Returns when the task has come to its final step. */
  run(): Promise<void> {
    // Asked twice, it is still one life: two would start two attempts.
    this.#running ??= (this.#preparing ?? Promise.resolve()).then(() => this.#until(() => false))
    return this.#running
  }

  /** It is to end; what it is doing is cut short. */
  stop(): void {
    if (this.#stopping || this.final) return
    this.#stopping = true
    this.#abort.abort(new Fault('conflict', 'the task is being stopped'))
    this.#ring()
  }

  /** Marks a task that need not run. */
  skip(message: string): void {
    if (this.record.step === 'new') this.#finish('done', { phase: 'exited', message })
  }

  /** Look again: the generation may have risen. */
  poke(): void {
    this.#ring()
  }

  /** Lets go of the attempt, which goes on. */
  async close(): Promise<void> {
    this.#closing = true
    // A start that is under way is waited for, because cutting it short would end the attempt.
    if (this.record.step !== 'starting') this.#abort.abort(new LettingGo())
    this.#ring()
    await Promise.allSettled([this.#preparing, this.#running])
    await this.#handle?.[Symbol.asyncDispose]()
  }

  async #until(reached: () => boolean): Promise<void> {
    while (!this.final && !reached()) await this.#advance()
  }

  /** One step; each leaves a record that the next agent could go on from. */
  async #advance(): Promise<void> {
    if (this.#closing) throw new LettingGo()
    switch (this.record.step) {
      case 'new':
      case 'preparing':
        return await this.#prepare()
      case 'ready':
        return await this.#start()
      case 'starting':
      case 'running':
        return await this.#watch()
      case 'waiting':
        return await this.#wait()
      case 'done':
      case 'failed':
      case 'stopped':
        return
      default:
        this.record.step satisfies never
    }
  }

  async #prepare(): Promise<void> {
    if (this.#stopping) return this.#finish('stopped', { phase: 'exited', message: 'stopped before it was started' })
    this.#step('preparing')
    this.record.status.phase = 'preparing'
    this.#host.changed()
    try {
      await this.#host.prepare(this, { signal: this.#abort.signal, again: this.record.prepared })
      this.record.prepared = true
      this.#step('ready')
    } catch (error) {
      if (this.#closing) throw new LettingGo()
      if (this.#stopping) return this.#finish('stopped', { phase: 'exited', message: 'stopped before it was started' })
      const message = sentence(error)
      this.#event('error', eventKinds.taskPrepareFailed, `task "${this.name}" could not be prepared: ${message}`)
      this.#failed(`could not be prepared: ${message}`, isPermanent(error))
    }
  }

  async #start(): Promise<void> {
    if (this.#stopping) return this.#finish('stopped', { phase: 'exited', message: 'stopped before it was started' })
    const { record } = this
    try {
      if (record.attempt > 0) await this.#host.prepare(this, { signal: this.#abort.signal, again: true })
      const plan = await this.#host.plan(this, record.attempt + 1)
      if (this.#closing) throw new LettingGo()
      if (this.#stopping) return this.#finish('stopped', { phase: 'exited', message: 'stopped before it was started' })
      record.attempt = plan.attempt
      record.generation = this.#host.generation
      record.plan = plan
      record.status = { phase: 'starting', restarts: plan.attempt - 1 }
      this.#step('starting')
      await this.#host.save()
      this.#hold(await this.driver.start(plan, { signal: this.#abort.signal }))
      if (this.#host.job.type === 'service' || record.attempt > 1) {
        const pid = record.status.pid === undefined ? '' : ` with pid ${record.status.pid}`
        const again = record.attempt > 1 ? `, attempt ${record.attempt}` : ''
        this.#event('info', eventKinds.taskStarted, `task "${this.name}" runs${pid}${again}`)
      }
    } catch (error) {
      if (this.#closing) throw new LettingGo()
      if (this.#stopping) return this.#finish('stopped', { phase: 'exited', message: 'stopped while it was starting' })
      const message = sentence(error)
      this.#event('error', eventKinds.taskStartFailed, `task "${this.name}" could not be started: ${message}`)
      this.#failed(`could not be started: ${message}`, isPermanent(error))
    }
  }

  async #watch(): Promise<void> {
    for (let tries = 1; !this.#handle && !this.#exit; tries++) {
      try {
        await this.#adopt()
      } catch (error) {
        // Nothing may be begun while it is not known what runs.
        this.record.status.message = `its driver cannot say whether it runs: ${sentence(error)}`
        this.#host.changed()
        await this.#pause(Math.min(30_000, 500 * 2 ** Math.min(tries, 10)), () => this.#closing)
        if (this.#closing) throw new LettingGo()
      }
    }
    const done = this.spec.checks.length > 0 ? new AbortController() : undefined
    if (done && this.#handle && !this.#exit) this.#check(this.#handle, done.signal)
    try {
      while (!this.#exit) {
        if (this.#closing) throw new LettingGo()
        if (this.#stopping) return await this.#end('stop')
        if (this.#restartWanted) return await this.#end('restart')
        if (this.#unhealthy !== undefined) return await this.#end('unhealthy')
        await this.#rung()
      }
      this.#ended(this.#exit)
    } finally {
      done?.abort()
    }
  }

  async #wait(): Promise<void> {
    const { interval, maxDelay } = this.#host.job.restart
    const left = Math.min(this.record.resumeAt - this.#host.clock.now(), Math.max(interval, maxDelay))
    await this.#pause(left, () => this.#stopping || this.#closing || this.#restartWanted)
    if (this.#closing) throw new LettingGo()
    if (this.#stopping) return this.#finish('stopped', { message: 'stopped while it waited to be restarted' })
    if (this.#restartWanted) this.record.failures = []
    this.#step(this.record.prepared ? 'ready' : 'new')
  }

  /** Ends the attempt for a reason of ours; how it then exited is no failure of its own. */
  async #end(why: 'stop' | 'restart' | 'unhealthy'): Promise<void> {
    const handle = this.#handle
    const unhealthy = this.#unhealthy
    const { signal, grace: graceMs } = this.spec.kill
    for (let tries = 1; handle && !this.#exit; tries++) {
      try {
        await this.#unlessClosing(handle.stop({ signal, graceMs }))
        this.#exit ??= await this.#unlessClosing(handle.exited)
      } catch (error) {
        if (this.#closing) throw new LettingGo()
        this.record.status.message = `it could not be stopped yet: ${sentence(error)}`
        this.#host.changed()
        await this.#pause(Math.min(10_000, 250 * 2 ** Math.min(tries, 10)), () => this.#closing)
        if (this.#closing) throw new LettingGo()
      }
    }
    const exit = this.#exit ?? { code: 255, unknown: 'it was gone already' }
    this.#letGo(exit)
    if (why === 'stop' || this.#stopping)
      return this.#finish('stopped', { message: `stopped; it ${describeExit(exit)}` })
    if (why === 'unhealthy') return this.#failed(unhealthy ?? 'unhealthy', false)
    this.#event('info', eventKinds.taskRestarting, `task "${this.name}" is restarted because a user asked for it`)
    this.record.failures = []
    this.#step('ready')
  }

  /** The attempt ended by itself. */
  #ended(exit: Exit): void {
    const { role } = this.spec
    this.#letGo(exit)
    const toEnd = role === 'prestart' || role === 'poststop' || (role === 'main' && this.#host.job.type === 'batch')
    if (exit.code === 0 && toEnd) {
      this.#finish('done', {})
      return
    }
    const how = describeExit(exit)
    if (exit.unknown !== undefined) {
      this.#event(
        'warning',
        eventKinds.taskVanished,
        `task "${this.name}" is gone, and how it ended is not known: ${exit.unknown}`,
      )
    } else if (exit.outOfMemory) {
      this.#event('error', eventKinds.taskOutOfMemory, `task "${this.name}" used more memory than it may and was ended`)
    } else {
      this.#event(exit.code === 0 ? 'info' : 'warning', eventKinds.taskExited, `task "${this.name}" ${how}`)
    }
    if (this.#stopping) this.#finish('stopped', { message: `stopped; it ${how}` })
    else this.#failed(how, false)
  }

  #failed(message: string, permanent: boolean): void {
    const { clock, job } = this.#host
    const now = clock.now()
    if (this.#stopping) {
      this.#finish('stopped', { message: `stopped; it ${message}` })
      return
    }
    const decision = permanent
      ? { restart: false as const, message: 'trying again would not help' }
      : decideRestart(job, this.record.failures, now)
    const text = `${message}; ${decision.message}`
    if (!decision.restart) {
      this.#event('error', eventKinds.taskFailed, `task "${this.name}" failed: ${text}`)
      this.#finish('failed', { phase: 'failed', message: text })
      return
    }
    this.record.failures = decision.failures
    this.record.resumeAt = now + decision.delayMs
    this.record.status = { ...this.record.status, phase: 'waiting', message: cut(text) }
    this.#event('warning', eventKinds.taskRestarting, `task "${this.name}" ${text}`)
    this.#step('waiting')
    this.#host.changed()
  }

  async #adopt(): Promise<void> {
    const { plan, step } = this.record
    const handle = plan && (await this.driver.adopt(plan))
    if (handle) return this.#hold(handle)
    this.#exit = {
      code: 255,
      unknown:
        step === 'starting' ? 'it was being started when the agent ended' : 'it was not there when the agent came back',
    }
    this.#step('running')
  }

  #hold(handle: Handle): void {
    this.#handle = handle
    this.#exit = undefined
    this.#unhealthy = undefined
    const { status } = this.record
    status.phase = 'running'
    status.startedAt = handle.startedAt
    if (handle.pid !== undefined) status.pid = handle.pid
    delete status.message
    if (this.spec.checks.length > 0) status.healthy ??= false
    this.#step('running')
    this.#host.changed()
    void handle.exited.then((exit) => {
      if (this.#handle !== handle) return
      this.#exit = exit
      this.#ring()
    })
  }

  #letGo(exit: Exit): void {
    const handle = this.#handle
    this.#handle = undefined
    this.#exit = undefined
    this.#unhealthy = undefined
    const { status } = this.record
    status.phase = 'exited'
    status.finishedAt = this.#host.clock.now()
    status.exitCode = exit.code
    if (exit.signal !== undefined) status.signal = exit.signal
    if (exit.outOfMemory) status.outOfMemory = true
    if (this.spec.checks.length > 0) status.healthy = false
    delete status.pid
    void handle?.[Symbol.asyncDispose]()
  }

  #check(handle: Handle, signal: AbortSignal): void {
    const { clock } = this.#host
    runChecks({
      ...this.#host.checks(this),
      checks: this.record.plan?.spec.checks ?? this.spec.checks,
      clock,
      handle,
      signal,
      wasHealthy: this.record.status.healthy === true,
      onChange: ({ healthy, failed, message, restart }) => {
        const was = this.record.status.healthy
        this.record.status.healthy = healthy
        if (failed) this.record.status.message = cut(message)
        else if (healthy) delete this.record.status.message
        if (healthy && !was) this.#event('info', eventKinds.taskHealthy, `task "${this.name}" is healthy: ${message}`)
        if (restart || (was && !healthy)) {
          this.#event('warning', eventKinds.taskUnhealthy, `task "${this.name}" is unhealthy: ${message}`)
        }
        if (restart) {
          this.#unhealthy = `was unhealthy: ${message}`
          this.#ring()
        }
        this.#host.changed()
      },
    })
  }

  /** Only what a user means by "the job" is restarted for them. */
  get #restartWanted(): boolean {
    return this.spec.role === 'main' && this.record.attempt > 0 && this.record.generation < this.#host.generation
  }

  #finish(step: 'done' | 'failed' | 'stopped', status: { phase?: 'exited' | 'failed'; message?: string }): void {
    this.record.status = { ...this.record.status, phase: status.phase ?? 'exited' }
    if (status.message !== undefined) this.record.status.message = cut(status.message)
    else delete this.record.status.message
    this.#step(step)
    this.#host.changed()
  }

  #step(step: TaskRecord['step']): void {
    this.record.step = step
  }

  #event(level: AgentEvent['level'], kind: EventKind, message: string): void {
    this.#host.event(level, kind, message, this.name)
  }

  #ring(): void {
    this.#bell?.resolve()
  }

  async #rung(): Promise<void> {
    this.#bell = Promise.withResolvers()
    await this.#bell.promise
    this.#bell = undefined
  }

  /** Waits for the time to pass, or for the condition. */
  async #pause(ms: number, over: () => boolean): Promise<void> {
    if (ms <= 0 || over()) return
    const timer = new AbortController()
    let elapsed = false
    this.#host.clock.sleep(ms, { signal: timer.signal }).then(
      () => {
        elapsed = true
        this.#ring()
      },
      () => {},
    )
    while (!elapsed && !over()) await this.#rung()
    timer.abort()
  }

  async #unlessClosing<T>(promise: Promise<T>): Promise<T> {
    let settled = false
    const result = promise.finally(() => {
      settled = true
      this.#ring()
    })
    result.catch(() => {})
    while (!settled) {
      if (this.#closing) throw new LettingGo()
      await this.#rung()
    }
    return await result
  }
}

/** Trying again would give the same answer. */
function isPermanent(error: unknown): boolean {
  return error instanceof Fault && (error.code === 'invalid' || error.code === 'denied')
}

export function describeExit(exit: Exit): string {
  if (exit.unknown !== undefined) return `ended in a way that is not known (${exit.unknown})`
  if (exit.outOfMemory) return 'was ended for using more memory than it may'
  if (exit.signal !== undefined) return `was ended by ${exit.signal}`
  return `exited with code ${exit.code}`
}

function cut(text: string): string {
  return text.length > 2000 ? `${text.slice(0, 1999)}…` : text
}
