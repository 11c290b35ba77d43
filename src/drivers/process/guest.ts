import { type ChildProcess, spawn } from 'node:child_process'
import { constants } from 'node:os'
import { PassThrough, type Readable } from 'node:stream'
import type { ExecRequest, Execution, Guest } from '../../guest/guest.ts'
import { killProcess } from '../../kit/cgroups.ts'
import type { Clock } from '../../kit/clock.ts'
import { spawnInTerminal } from '../../kit/terminal/terminal.ts'
import { Fault, sentence } from '../../model/fault.ts'
import type { TaskPlan } from '../driver.ts'
import type { EndingTools } from './ending.ts'
import { enter, type ParentKind } from './parent.ts'
import { resolveProgram } from './program.ts'
import { taskIdVariable } from './table.ts'

export interface GuestParts {
  plan: TaskPlan
  group: string
  tools: EndingTools
  kind: ParentKind
  hasEnded: () => Promise<boolean>
}

/** Commands beside a task: children of the agent, in the task's directory, environment, user and cgroups. */
export class ProcessGuest implements Guest {
  readonly #parts: GuestParts

  constructor(parts: GuestParts) {
    this.#parts = parts
  }

  async exec(request: ExecRequest, { signal }: { signal: AbortSignal }): Promise<Execution> {
    const { plan, kind, group, tools, hasEnded } = this.#parts
    signal.throwIfAborted()
    if (await hasEnded()) {
      throw new Fault('conflict', `task "${plan.task}" has ended, so that nothing can be run in it`)
    }
    const program = await resolveProgram({
      whose: `exec in task "${plan.task}"`,
      command: request.command,
      env: { ...plan.env, ...request.env, [taskIdVariable]: plan.id },
      directory: plan.directory,
      cwd: request.cwd ?? plan.spec.cwd,
      user: request.user ?? plan.spec.user,
    })
    const doors = group === '' ? [] : tools.cgroups.doors(group)
    const start = {
      command: kind.shell,
      args: ['-c', enter, 'tutti-exec', ...doors, '--', ...program.argv],
      env: program.env,
      cwd: program.cwd,
    }
    try {
      return request.terminal
        ? await inTerminal({ ...start, size: request.terminal, clock: tools.clock }, signal)
        : await withPipes(start, tools.clock, signal)
    } catch (error) {
      throw new Fault('unavailable', `cannot run "${request.command[0]}" in task "${plan.task}": ${sentence(error)}`)
    }
  }
}

async function inTerminal(options: Parameters<typeof spawnInTerminal>[0], signal: AbortSignal): Promise<Execution> {
  const terminal = await spawnInTerminal(options)
  const { pid, stdin, stdout } = terminal
  const exited = killedBy(signal, pid, terminal.exited)
  return {
    stdin,
    stdout,
    stderr: undefined,
    resize: (size) => terminal.resize(size),
    kill: (name) => killGroup(pid, name),
    exited,
  }
}

interface Start {
  command: string
  args: string[]
  env: Record<string, string>
  cwd: string
}

async function withPipes({ command, args, env, cwd }: Start, clock: Clock, signal: AbortSignal): Promise<Execution> {
  const child = spawn(command, args, { cwd, env, detached: true, stdio: ['pipe', 'pipe', 'pipe'] })
  const ended = new Promise<Ended>((resolve) => {
    child.once('exit', (code, name) => resolve({ code, signal: name }))
  })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
  const { pid } = child
  if (pid === undefined) throw new Error('it has no process number')
  child.stdin.on('error', () => {})
  const stdout = child.stdout.pipe(new PassThrough())
  const stderr = child.stderr.pipe(new PassThrough())
  const read = ended.then(async (exit) => {
    await lastOutput(child, [child.stdout, child.stderr], clock)
    for (const [from, to] of [
      [child.stdout, stdout],
      [child.stderr, stderr],
    ] as const) {
      from.unpipe(to)
      from.destroy()
      to.end()
    }
    return exit
  })
  return {
    stdin: child.stdin,
    stdout,
    stderr,
    resize: () => {},
    kill: (name) => killGroup(pid, name),
    exited: killedBy(signal, pid, read),
  }
}

interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
}

/** Somebody the command left behind may hold its output open for ever: once nothing more comes, let go of it. */
async function lastOutput(child: ChildProcess, outputs: readonly Readable[], clock: Clock): Promise<void> {
  const closed = new AbortController()
  const all = outputs.map(
    (output) => new Promise<void>((resolve) => (output.readableEnded ? resolve() : output.once('end', resolve))),
  )
  void Promise.all(all).then(() => closed.abort())
  child.once('close', () => closed.abort())
  for (let before = -1; !closed.signal.aborted; ) {
    const waiting = outputs.some((output) => output.readableLength > 0)
    const now = outputs.reduce((sum, output) => sum + ((output as Readable & { bytesRead?: number }).bytesRead ?? 0), 0)
    if (now === before && !waiting) return
    before = now
    await clock.sleep(200, { signal: closed.signal }).catch(() => {})
  }
}

async function killedBy(signal: AbortSignal, pid: number, ended: Promise<Ended>): Promise<{ code: number }> {
  const kill = () => killGroup(pid, 'SIGKILL')
  if (signal.aborted) kill()
  signal.addEventListener('abort', kill, { once: true })
  const { code, signal: name } = await ended.finally(() => signal.removeEventListener('abort', kill))
  return { code: code ?? 128 + (name ? constants.signals[name] : 0) }
}

function killGroup(pid: number, name: string): void {
  if (!(name in constants.signals)) throw new Fault('invalid', `"${name}" is not a signal of this system`)
  if (!killProcess(-pid, name as NodeJS.Signals)) killProcess(pid, name as NodeJS.Signals)
}
