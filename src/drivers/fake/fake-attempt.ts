import { appendFile } from 'node:fs/promises'
import { constants } from 'node:os'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { Exit, Stats, TaskPlan } from '../driver.ts'
import { behaviourOf, exitCodeOf, type FakeBehaviour } from './behaviour.ts'

/** One attempt on a fake machine: starting → running → ended, by itself, by a signal or with the machine. */
export class FakeAttempt {
  readonly plan: TaskPlan
  readonly pid: number
  phase: 'starting' | 'running' | 'ended' = 'starting'
  startedAt = 0
  readonly #clock: Clock
  readonly #behaviour: FakeBehaviour
  readonly #over = new AbortController()
  readonly #exit = Promise.withResolvers<Exit>()
  #start: Promise<void> | undefined

  constructor(plan: TaskPlan, clock: Clock, pid: number) {
    this.plan = plan
    this.pid = pid
    this.#clock = clock
    this.#behaviour = behaviourOf(plan)
  }

  get exited(): Promise<Exit> {
    return this.#exit.promise
  }

  /** Aborted when it has ended: whatever runs beside it ends too. */
  get over(): AbortSignal {
    return this.#over.signal
  }

  /** Resolves when it runs; asked again, the same start. */
  start(signal: AbortSignal): Promise<void> {
    this.#start ??= this.#begin(signal)
    return this.#start
  }

  end(exit: Exit): void {
    if (this.phase === 'ended') return
    this.phase = 'ended'
    this.#over.abort(new Error('the task has ended'))
    this.#exit.resolve(exit)
  }

  signal(name: string): void {
    const number = numberOf(name)
    if (this.phase !== 'running') return
    const { ignoreSignals, stopMs } = this.#behaviour
    const death = { code: 128 + number, signal: name }
    const obeys = name === 'SIGKILL' || !ignoreSignals
    if (name === 'SIGKILL' || (obeys && stopMs === 0)) this.end(death)
    else if (obeys) this.#later(stopMs, death)
  }

  /** Half of what it may have, all of the CPU that it reserved: the same at every look at the same time. */
  stats(): Stats {
    const { memory, cores } = this.plan.limits
    if (this.phase !== 'running') return { memory: 0, cpuMs: 0, pids: 0 }
    const ranMs = Math.max(0, this.#clock.now() - this.startedAt)
    return { memory: Math.floor(memory / 2), cpuMs: Math.round(ranMs * cores), pids: 1 }
  }

  async #begin(signal: AbortSignal): Promise<void> {
    const { startMs, failStart, output, runMs, outOfMemory } = this.#behaviour
    if (startMs > 0) await this.#clock.sleep(startMs, { signal: AbortSignal.any([signal, this.over]) })
    if (failStart !== undefined) throw new Fault('invalid', failStart)
    if (output !== undefined) await appendFile(this.plan.output.stdout, output)
    if (this.phase !== 'starting') throw new Fault('conflict', 'the attempt was ended while it started')
    this.phase = 'running'
    this.startedAt = this.#clock.now()
    if (runMs === undefined) return
    const exit = outOfMemory
      ? { code: 137, signal: 'SIGKILL', outOfMemory }
      : { code: exitCodeOf(this.#behaviour, this.plan.attempt) }
    this.#later(runMs, exit)
  }

  #later(ms: number, exit: Exit): void {
    this.#clock.sleep(ms, { signal: this.over }).then(
      () => this.end(exit),
      () => {},
    )
  }
}

export function numberOf(signal: string): number {
  const number = (constants.signals as Record<string, number>)[signal]
  if (number === undefined) throw new Fault('invalid', `"${signal}" is not a signal of this system`)
  return number
}
