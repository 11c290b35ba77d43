import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { readlink, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Cgroups, findCgroups, killProcess, noCgroups } from '../../kit/cgroups.ts'
import type { Clock } from '../../kit/clock.ts'
import { terminalsLacking } from '../../kit/terminal/terminal.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { commandLine } from '../../model/job.ts'
import type { DriverFacts } from '../../model/node.ts'
import type { Capabilities, Driver, Exit, Handle, PrepareOptions, TaskPlan } from '../driver.ts'
import { AttemptFiles, bootId } from './attempt.ts'
import { type EndingTools, endProcesses, type Prey } from './ending.ts'
import { lost, readExit, untilEnded } from './exit.ts'
import { ProcessHandle } from './handle.ts'
import { linuxParent, type ParentKind, portableParent, spawnParent } from './parent.ts'
import { type Program, resolveProgram, userSwitchLacking } from './program.ts'
import { procTable, psTable, taskIdVariable } from './table.ts'

export interface ProcessOptions {
  /** For notes on where tasks keep their state: absolute, this driver's alone, kept over restarts. */
  directory: string
  clock: Clock
  /** `portable` does without /proc, setsid and cgroups; the only way on macOS, and for tests elsewhere. */
  system?: 'linux' | 'portable'
  /** Do without cgroups even where they work. */
  cgroups?: boolean
}

/**
 * Programs and scripts as processes of this machine. A tiny parent per attempt outlives the agent and records the exit
 * (see parent.ts); each attempt has its own cgroup where the system allows it.
 */
export class ProcessDriver implements Driver {
  readonly name = 'process'
  readonly can: Capabilities
  readonly #options: ProcessOptions
  readonly #tools: EndingTools
  readonly #kind: ParentKind
  readonly #boot = bootId()
  readonly #starting = new Map<string, Promise<Handle>>()
  /** Exits that somebody still waits for, by task: their files must not go before they are read. */
  readonly #exits = new Map<string, Set<Promise<unknown>>>()

  constructor(options: ProcessOptions) {
    const system = options.system ?? (process.platform === 'linux' ? 'linux' : 'portable')
    const cgroups = system === 'linux' && options.cgroups !== false ? findCgroups() : noCgroups('they are not used')
    this.#options = options
    this.#kind = system === 'linux' ? linuxParent : portableParent
    this.#tools = { cgroups, table: system === 'linux' ? procTable : psTable, clock: options.clock }
    this.can = {
      exec: true,
      terminal: terminalsLacking() === undefined,
      signals: true,
      stats: true,
      limits: cgroups.lacking === undefined,
      images: false,
    }
  }

  async facts(): Promise<DriverFacts> {
    const { cgroups } = this.#tools
    const switching = userSwitchLacking()
    const terminals = terminalsLacking()
    const attributes = {
      cgroups: cgroups.version,
      limits: cgroups.lacking === undefined ? 'enforced' : `not enforced: ${cgroups.lacking}`,
      'user-switching': switching === undefined ? 'yes' : `no: ${switching}`,
      terminals: terminals === undefined ? 'yes' : `no: ${terminals}`,
    }
    const missing = [this.#kind.shell, ...this.#kind.session.slice(0, 1)].find((path) => !existsSync(path))
    if (missing === undefined) return { healthy: true, attributes }
    return { healthy: false, reason: `${missing} is missing`, remedy: 'install util-linux', attributes }
  }

  /** Nothing is slow here; what is wrong with the task is better said now than at the start. */
  async prepare(plan: TaskPlan, { signal }: PrepareOptions): Promise<void> {
    signal.throwIfAborted()
    await this.#program(plan)
  }

  async start(plan: TaskPlan, { signal }: { signal: AbortSignal }): Promise<Handle> {
    const key = `${plan.id}.${plan.attempt}`
    const same = this.#starting.get(key)
    if (same !== undefined) return same
    const starting = this.#start(plan, signal).finally(() => this.#starting.delete(key))
    this.#starting.set(key, starting)
    return starting
  }

  async adopt(plan: TaskPlan): Promise<Handle | undefined> {
    const files = this.#files(plan)
    if (!existsSync(files.directory)) return undefined
    // It was meant to begin, and must not do so behind our back.
    return files.giveUp() ? undefined : this.#find(plan, files)
  }

  async remove(plan: Pick<TaskPlan, 'id' | 'directory'>): Promise<void> {
    const { cgroups, table, clock } = this.#tools
    const note = this.#note(plan.id)
    const stateDirectory = await readlink(note).catch(() => undefined)
    const attempts = stateDirectory === undefined ? [] : await AttemptFiles.all(stateDirectory, table)
    for (const files of attempts) {
      files.giveUp()
      const prey = preyOf(plan.id, files)
      await endProcesses(prey, this.#tools)
      const parent = await this.#patiently(() => files.parent())
      if (!parent) continue
      // It has nothing left to wait for. One caught before it had a task is not spared, nor is what it then began.
      for (let pause = 1; pause < 500 && (await table.isAlive(parent)); pause *= 2) await clock.sleep(pause)
      if (await table.isAlive(parent)) {
        killProcess(parent.pid)
        await endProcesses({ ...prey, task: files.task(), parent: undefined }, this.#tools)
        await endProcesses({ ...prey, group: '', task: undefined, parent: undefined }, this.#tools)
      }
    }
    await Promise.all(this.#exits.get(plan.id) ?? [])
    for (const group of cgroups.list(`${plan.id}.`)) await this.#removeGroup(group)
    for (const files of attempts) await files.remove()
    await rm(note, { force: true })
  }

  async #start(plan: TaskPlan, signal: AbortSignal): Promise<Handle> {
    signal.throwIfAborted()
    const files = this.#files(plan)
    if (files.claimed) return this.#findOrRefuse(plan, files)
    const program = await this.#program(plan)
    const { cgroups, table, clock } = this.#tools
    const group = cgroups.version === 'none' ? '' : `${plan.id}.${plan.attempt}`
    try {
      this.#takeNote(plan)
      const intent = files.begin({ startedAt: clock.now(), boot: this.#boot, group })
      const doors = group === '' ? [] : this.#makeGroup(plan, cgroups, group)
      const { kind, directory } = { kind: this.#kind, directory: files.directory }
      const { child, line } = await spawnParent({ kind, directory, doors, program, output: plan.output })
      const task = table.parse(line)
      // Another parent was faster: one that an earlier agent began, and did not live to see.
      if (!task && files.claimed) return await this.#findOrRefuse(plan, files)
      if (!task) throw new Fault('unavailable', `the shell that is to start task "${plan.task}" ended at once`)
      const gone = child.exitCode !== null || child.signalCode !== null
      const parentGone = gone ? Promise.resolve() : new Promise<void>((resolve) => child.once('exit', () => resolve()))
      const prey = { taskId: plan.id, group, task, parent: files.parent() }
      const exited = parentGone.then(() => readExit(files, prey, this.#tools))
      return this.#handle(plan, files, { group, task, startedAt: intent.startedAt, exited, letGo: () => child.unref() })
    } catch (error) {
      await this.#undo(plan, files)
      if (error instanceof Fault) throw error
      throw new Fault('unavailable', `cannot start task "${plan.task}": ${sentence(error)}`, { cause: error })
    }
  }

  async #findOrRefuse(plan: TaskPlan, files: AttemptFiles): Promise<Handle> {
    const found = await this.#find(plan, files)
    if (found) return found
    throw new Fault('conflict', `attempt ${plan.attempt} of task "${plan.task}" was given up; start another`)
  }

  /** The attempt that some parent claimed. */
  async #find(plan: TaskPlan, files: AttemptFiles): Promise<Handle | undefined> {
    const parent = await this.#patiently(() => files.parent())
    const intent = files.intent()
    if (!parent && files.giveUp()) return undefined
    const { group = '', startedAt = this.#options.clock.now() } = intent ?? {}
    const ended = (exited: Promise<Exit>) =>
      this.#handle(plan, files, { group, task: files.task(), startedAt, exited, letGo: () => {} })
    if (intent && intent.boot !== this.#boot && files.exitCode() === undefined) {
      return ended(Promise.resolve(lost('the machine was started anew')))
    }
    // A moment lies between the parent's first line and the task's.
    const task = await this.#patiently(async () => {
      const mark = files.task()
      return mark ?? (parent && (await this.#tools.table.isAlive(parent)) ? undefined : 'none')
    })
    const prey = { taskId: plan.id, group, task: task === 'none' ? undefined : task, parent }
    if (task === 'none' || files.exitCode() !== undefined) return ended(readExit(files, prey, this.#tools))
    const away = new AbortController()
    const exited = untilEnded(files, prey, this.#tools, away.signal).then((over) =>
      over ? readExit(files, prey, this.#tools) : new Promise<never>(() => {}),
    )
    return this.#handle(plan, files, { group, task, startedAt, exited, letGo: () => away.abort() })
  }

  #handle(
    plan: TaskPlan,
    files: AttemptFiles,
    parts: { group: string; task: Prey['task']; startedAt: number; exited: Promise<Exit>; letGo: () => void },
  ): Handle {
    const waiting = this.#exits.get(plan.id) ?? new Set()
    this.#exits.set(plan.id, waiting)
    const forget = () => {
      waiting.delete(parts.exited)
      if (waiting.size === 0 && this.#exits.get(plan.id) === waiting) this.#exits.delete(plan.id)
    }
    waiting.add(parts.exited)
    void parts.exited.then(forget)
    const letGo = () => {
      parts.letGo()
      forget()
    }
    return new ProcessHandle({ ...parts, letGo, plan, files, tools: this.#tools, kind: this.#kind })
  }

  #makeGroup(plan: TaskPlan, cgroups: Cgroups, group: string): string[] {
    try {
      return cgroups.make(group, plan.limits)
    } catch (error) {
      const why = `cannot make the control group of task "${plan.task}" with its limits: ${sentence(error)}`
      throw new Fault('unavailable', why, { cause: error })
    }
  }

  /** The task is known by its id alone when it is removed: keep where its state is. Two quick calls, so not in turns. */
  #takeNote(plan: TaskPlan): void {
    if (!existsSync(this.#options.directory)) mkdirSync(this.#options.directory, { recursive: true, mode: 0o700 })
    try {
      symlinkSync(plan.stateDirectory, this.#note(plan.id))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }

  async #undo(plan: TaskPlan, files: AttemptFiles): Promise<void> {
    const { cgroups, table } = this.#tools
    const group = files.intent()?.group
    if (group) cgroups.remove(group)
    await files.remove()
    if ((await AttemptFiles.all(plan.stateDirectory, table)).length === 0)
      await rm(this.#note(plan.id), { force: true })
  }

  /** The kernel lets go of a group a moment after its last process. */
  async #removeGroup(group: string): Promise<void> {
    const { cgroups, clock } = this.#tools
    for (let pause = 1; !cgroups.remove(group); pause *= 2) {
      if (pause > 2000) throw new Fault('unavailable', `the control group "${group}" cannot be removed; it is in use`)
      await endProcesses({ taskId: '', group, task: undefined, parent: undefined }, this.#tools)
      await clock.sleep(pause)
    }
  }

  /** What another process is just writing. */
  async #patiently<T>(look: () => Promise<T | undefined> | T | undefined): Promise<T | undefined> {
    for (let pause = 1; ; pause *= 2) {
      const found = await look()
      if (found !== undefined || pause > 500) return found
      await this.#options.clock.sleep(pause)
    }
  }

  async #program(plan: TaskPlan): Promise<Program> {
    return resolveProgram({
      whose: `task "${plan.task}"`,
      command: commandLine(plan.spec),
      env: { ...plan.env, [taskIdVariable]: plan.id },
      directory: plan.directory,
      cwd: plan.spec.cwd,
      user: plan.spec.user,
    })
  }

  #files(plan: TaskPlan): AttemptFiles {
    return new AttemptFiles(plan.stateDirectory, plan.attempt, this.#tools.table)
  }

  #note(id: string): string {
    return join(this.#options.directory, id)
  }
}

function preyOf(taskId: string, files: AttemptFiles): Prey {
  return { taskId, group: files.intent()?.group ?? '', task: files.task(), parent: files.parent() }
}
