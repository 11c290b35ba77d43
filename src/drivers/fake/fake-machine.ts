import type { Clock } from '../../kit/clock.ts'
import type { TaskPlan } from '../driver.ts'
import { FakeAttempt } from './fake-attempt.ts'

/**
 * The machine under fake drivers. It outlives them, as a real one outlives its agent: a driver made anew on the same
 * machine finds what the one before had started. Costs a few hundred bytes a task, and a timer only while one runs out.
 */
export class FakeMachine {
  readonly clock: Clock
  /** By task, then by attempt. */
  readonly #tasks = new Map<string, Map<number, FakeAttempt>>()
  #lastPid = 1000

  constructor({ clock }: { clock: Clock }) {
    this.clock = clock
  }

  /** Attempts that run now. */
  get running(): number {
    let count = 0
    for (const attempts of this.#tasks.values()) {
      for (const attempt of attempts.values()) if (attempt.phase === 'running') count += 1
    }
    return count
  }

  /** Ids of tasks that have left any trace. */
  get tasks(): string[] {
    return [...this.#tasks.keys()]
  }

  find(id: string, attempt: number): FakeAttempt | undefined {
    return this.#tasks.get(id)?.get(attempt)
  }

  /** What is begun for this attempt, by us or by somebody before. */
  begin(plan: TaskPlan): FakeAttempt {
    const attempts = this.#tasks.get(plan.id) ?? new Map<number, FakeAttempt>()
    this.#tasks.set(plan.id, attempts)
    const known = attempts.get(plan.attempt)
    if (known) return known
    this.#lastPid += 1
    const made = new FakeAttempt(plan, this.clock, this.#lastPid)
    attempts.set(plan.attempt, made)
    return made
  }

  forget(id: string, attempt: number): void {
    const attempts = this.#tasks.get(id)
    attempts?.delete(attempt)
    if (attempts?.size === 0) this.#tasks.delete(id)
  }

  remove(id: string): void {
    for (const attempt of this.#tasks.get(id)?.values() ?? []) attempt.end({ code: 137, signal: 'SIGKILL' })
    this.#tasks.delete(id)
  }

  /** Power off and on again: nothing runs, and nobody wrote down how it ended. */
  reboot(): void {
    for (const attempts of this.#tasks.values()) {
      for (const attempt of attempts.values()) attempt.end({ code: 255, unknown: 'the machine was started anew' })
    }
  }
}
