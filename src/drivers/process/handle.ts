import { constants } from 'node:os'
import type { Guest } from '../../guest/guest.ts'
import { killProcess } from '../../kit/cgroups.ts'
import { Fault } from '../../model/fault.ts'
import type { Exit, Handle, Stats, TaskPlan } from '../driver.ts'
import type { AttemptFiles } from './attempt.ts'
import { type EndingTools, endProcesses, type Prey } from './ending.ts'
import { ProcessGuest } from './guest.ts'
import type { ParentKind } from './parent.ts'
import type { ProcessMark } from './table.ts'

export interface HandleParts {
  plan: TaskPlan
  files: AttemptFiles
  group: string
  task: ProcessMark | undefined
  startedAt: number
  /** Settles with the exit; never rejects. */
  exited: Promise<Exit>
  tools: EndingTools
  kind: ParentKind
  /** Stops watching. */
  letGo: () => void
}

/** Our grip on one attempt. The main process is only ever touched after a look at its start time. */
export class ProcessHandle implements Handle {
  readonly startedAt: number
  readonly exited: Promise<Exit>
  readonly guest: Guest
  readonly #parts: HandleParts
  #ended = false

  constructor(parts: HandleParts) {
    this.#parts = parts
    this.startedAt = parts.startedAt
    this.exited = parts.exited
    this.guest = new ProcessGuest({ ...parts, hasEnded: () => this.#hasEnded() })
    void parts.exited.then(() => {
      this.#ended = true
    })
  }

  get pid(): number | undefined {
    return this.#parts.task?.pid
  }

  async signal(name: string): Promise<void> {
    const { task } = this.#parts
    if (!(name in constants.signals)) throw new Fault('invalid', `"${name}" is not a signal of this system`)
    if (task && !(await this.#hasEnded())) killProcess(task.pid, name as NodeJS.Signals)
  }

  async stop({ signal, graceMs }: { signal: string; graceMs: number }): Promise<void> {
    const { task, tools, exited } = this.#parts
    if (task && !(await this.#hasEnded())) {
      const name = signal in constants.signals ? (signal as NodeJS.Signals) : 'SIGTERM'
      // Its group, so that a shell's children hear it too; it has one as soon as it is the program.
      if (!killProcess(-task.pid, name)) killProcess(task.pid, name)
      if (name !== 'SIGKILL') await this.#endsWithin(graceMs)
    }
    await endProcesses(this.#prey(), tools)
    await exited
  }

  async stats(): Promise<Stats> {
    const { tools, group, plan, task, files } = this.#parts
    if (await this.#hasEnded()) return { memory: 0, cpuMs: 0, pids: 0 }
    const ofGroup = group === '' ? undefined : tools.cgroups.usage(group)
    if (ofGroup) return ofGroup
    const parent = files.parent()?.pid
    const pids = (await tools.table.membersOf(plan.id, task?.pid)).filter((pid) => pid !== parent)
    return { ...(await tools.table.usageOf(pids)), pids: pids.length }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#parts.letGo()
  }

  async #hasEnded(): Promise<boolean> {
    const { task, tools } = this.#parts
    return this.#ended || task === undefined || !(await tools.table.isAlive(task))
  }

  async #endsWithin(ms: number): Promise<void> {
    const done = new AbortController()
    await Promise.race([this.#parts.exited, this.#parts.tools.clock.sleep(ms, { signal: done.signal }).catch(() => {})])
    done.abort()
  }

  #prey(): Prey {
    const { plan, group, task, files } = this.#parts
    return { taskId: plan.id, group, task, parent: files.parent() }
  }
}
