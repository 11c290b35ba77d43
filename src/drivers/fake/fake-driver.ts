import type { Guest } from '../../guest/guest.ts'
import { type Clock, deadline } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { DriverFacts } from '../../model/node.ts'
import type { Capabilities, Driver, Exit, Handle, PrepareOptions, Stats, TaskPlan } from '../driver.ts'
import { behaviourOf } from './behaviour.ts'
import type { FakeAttempt } from './fake-attempt.ts'
import { FakeGuest } from './fake-guest.ts'
import type { FakeMachine } from './fake-machine.ts'

export interface FakeOptions {
  /** Shared by the drivers of one machine, one after the other. */
  machine: FakeMachine
  clock: Clock
}

/**
 * An honest fake: tasks that take time, end, fail and refuse to end as their config says (behaviour.ts), without a
 * process. For simulations of thousands of nodes, and for trying the rest of the system.
 */
export class FakeDriver implements Driver {
  readonly name = 'fake'
  readonly can: Capabilities = {
    exec: true,
    terminal: false,
    signals: true,
    stats: true,
    limits: false,
    images: false,
  }
  readonly #machine: FakeMachine
  readonly #clock: Clock

  constructor({ machine, clock }: FakeOptions) {
    this.#machine = machine
    this.#clock = clock
  }

  async facts(): Promise<DriverFacts> {
    return { healthy: true, attributes: {} }
  }

  async prepare(plan: TaskPlan, { signal, progress }: PrepareOptions): Promise<void> {
    signal.throwIfAborted()
    const { prepareMs, failPrepare } = behaviourOf(plan)
    if (prepareMs > 0) {
      progress(`preparing for ${prepareMs} ms`)
      await this.#clock.sleep(prepareMs, { signal })
    }
    if (failPrepare !== undefined) throw new Fault('unavailable', failPrepare)
  }

  async start(plan: TaskPlan, { signal }: { signal: AbortSignal }): Promise<Handle> {
    signal.throwIfAborted()
    const attempt = this.#machine.begin(plan)
    try {
      await attempt.start(signal)
    } catch (error) {
      this.#machine.forget(plan.id, plan.attempt)
      throw error
    }
    return new FakeHandle(attempt, this.#clock)
  }

  async adopt(plan: TaskPlan): Promise<Handle | undefined> {
    const attempt = this.#machine.find(plan.id, plan.attempt)
    if (!attempt) return undefined
    if (attempt.phase !== 'starting') return new FakeHandle(attempt, this.#clock)
    // An agent that is no more had begun it: it must not come to run behind our back.
    attempt.end({ code: 137, signal: 'SIGKILL' })
    this.#machine.forget(plan.id, plan.attempt)
    return undefined
  }

  async remove({ id }: Pick<TaskPlan, 'id' | 'directory'>): Promise<void> {
    this.#machine.remove(id)
  }
}

class FakeHandle implements Handle {
  readonly guest: Guest
  readonly #attempt: FakeAttempt
  readonly #clock: Clock

  constructor(attempt: FakeAttempt, clock: Clock) {
    this.guest = new FakeGuest(attempt, clock)
    this.#attempt = attempt
    this.#clock = clock
  }

  get pid(): number {
    return this.#attempt.pid
  }

  get startedAt(): number {
    return this.#attempt.startedAt
  }

  get exited(): Promise<Exit> {
    return this.#attempt.exited
  }

  async signal(name: string): Promise<void> {
    this.#attempt.signal(name)
  }

  async stop({ signal, graceMs }: { signal: string; graceMs: number }): Promise<void> {
    this.#attempt.signal(signal)
    if (this.#attempt.phase !== 'ended') {
      using grace = deadline(this.#clock, graceMs)
      const over = new Promise<void>((resolve) => grace.signal.addEventListener('abort', () => resolve()))
      await Promise.race([this.exited, over])
    }
    this.#attempt.signal('SIGKILL')
    await this.exited
  }

  async stats(): Promise<Stats> {
    return this.#attempt.stats()
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
