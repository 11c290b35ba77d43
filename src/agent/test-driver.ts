import type { Driver, Exit, Handle, TaskPlan } from '../drivers/driver.ts'
import type { Guest } from '../guest/guest.ts'
import type { Clock } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'

/** What runs on a machine in the agent's tests; it outlives the agents and drivers that look at it. */
export class TestMachine {
  readonly running = new Map<string, Running>()
  /** Every start, as `task id/attempt`. */
  readonly starts: string[] = []
  readonly stops: string[] = []
  readonly broken: string[] = []
  /** Called before a start; may throw or wait. */
  beforeStart: (plan: TaskPlan) => Promise<void> | void = () => {}
  beforePrepare: (plan: TaskPlan, signal: AbortSignal) => Promise<void> | void = () => {}
  exec: Guest['exec'] = async () => {
    throw new Fault('invalid', 'there is no such program')
  }
  #pid = 100
  readonly #remembering: boolean

  /** Without remembering, `starts` stays empty: for measuring. */
  constructor({ remembering = true } = {}) {
    this.#remembering = remembering
  }

  exit(id: string, exit: Exit): void {
    this.running.get(id)?.end(exit)
  }

  /** As a reboot would: gone, with no trace. */
  vanish(id: string): void {
    this.running.delete(id)
  }

  alive(): string[] {
    return [...this.running].filter(([, run]) => run.exit === undefined).map(([id]) => id)
  }

  /** `crashed`: nothing that this driver is asked for happens any more, as for a process that was killed. */
  driver(clock: Clock, { crashed = (): boolean => false, name = 'fake' } = {}): Driver {
    const never = () => new Promise<never>(() => {})
    return {
      name,
      can: { exec: true, terminal: false, signals: true, stats: true, limits: false, images: false },
      facts: async () => ({ healthy: true, attributes: {} }),
      prepare: async (plan, { signal }) => {
        if (crashed()) return await never()
        await this.beforePrepare(plan, signal)
      },
      start: async (plan) => {
        if (crashed()) return await never()
        await this.beforeStart(plan)
        if (crashed()) return await never()
        const before = this.running.get(plan.id)
        if (before && before.exit === undefined && before.plan.attempt !== plan.attempt) {
          this.broken.push(`attempt ${plan.attempt} of ${plan.id} began while ${before.plan.attempt} ran`)
        }
        if (this.#remembering && this.starts.includes(`${plan.id}/${plan.attempt}`)) {
          this.broken.push(`attempt ${plan.attempt} of ${plan.id} began twice`)
        }
        if (this.#remembering) this.starts.push(`${plan.id}/${plan.attempt}`)
        const run = new Running(plan, this.#pid++, clock.now())
        this.running.set(plan.id, run)
        const { ms, code } = plan.spec.config as { ms?: number; code?: number }
        if (ms === 0) setImmediate(() => run.end({ code: code ?? 0 }))
        else if (ms !== undefined) void clock.sleep(ms).then(() => run.end({ code: code ?? 0 }))
        return handleOf(run, crashed, this)
      },
      adopt: async (plan) => {
        if (crashed()) return await never()
        const run = this.running.get(plan.id)
        return run && run.plan.attempt === plan.attempt ? handleOf(run, crashed, this) : undefined
      },
      remove: async ({ id }) => {
        if (crashed()) return await never()
        this.running.get(id)?.end({ code: 137, signal: 'SIGKILL' })
        this.running.delete(id)
      },
    }
  }
}

class Running {
  readonly plan: TaskPlan
  readonly pid: number
  readonly startedAt: number
  exit: Exit | undefined
  readonly exited = Promise.withResolvers<Exit>()
  readonly signals: string[] = []

  constructor(plan: TaskPlan, pid: number, startedAt: number) {
    this.plan = plan
    this.pid = pid
    this.startedAt = startedAt
  }

  end(exit: Exit): void {
    this.exit ??= exit
    this.exited.resolve(this.exit)
  }
}

function handleOf(run: Running, crashed: () => boolean, machine: TestMachine): Handle {
  return {
    pid: run.pid,
    startedAt: run.startedAt,
    exited: run.exited.promise.then((exit) => (crashed() ? new Promise<never>(() => {}) : exit)),
    signal: async (name) => void run.signals.push(name),
    stop: async ({ signal }) => {
      if (crashed()) return await new Promise<never>(() => {})
      machine.stops.push(run.plan.task)
      run.end({ code: 143, signal })
    },
    stats: async () => ({ memory: 1, cpuMs: 2, pids: 3 }),
    guest: { exec: (request, options) => machine.exec(request, options) },
    [Symbol.asyncDispose]: async () => {},
  }
}
