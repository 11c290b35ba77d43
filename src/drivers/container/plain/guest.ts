import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync, watch } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ExecRequest, Execution, Guest } from '../../../guest/guest.ts'
import type { Clock } from '../../../kit/clock.ts'
import { Wakeup } from '../../../kit/wakeup.ts'
import { Fault } from '../../../model/fault.ts'
import { execFault } from '../faults.ts'
import { sendSignal } from '../processes.ts'
import type { AttemptFiles } from './attempt.ts'
import { capabilitiesFor, type ProcessConfig } from './bundle.ts'
import { findUser } from './users.ts'

export interface PlainGuestOptions {
  files: AttemptFiles
  clock: Clock
  runtime: string
  runtimeRoot: string
  /** What the container's first process was given. */
  process: () => Promise<ProcessConfig>
  dropCapabilities: readonly string[]
}

/** A way into a running container: another process in its namespaces, with the environment of the first. */
export class PlainGuest implements Guest {
  readonly #options: PlainGuestOptions

  constructor(options: PlainGuestOptions) {
    this.#options = options
  }

  async exec(request: ExecRequest, { signal }: { signal: AbortSignal }): Promise<Execution> {
    signal.throwIfAborted()
    const { files, runtime, runtimeRoot } = this.#options
    const config = await this.#configure(request)
    const directory = await mkdtemp(files.at('exec-'))
    const at = { process: join(directory, 'process.json'), pid: join(directory, 'pid'), log: join(directory, 'log') }
    // The environment holds secrets, so it goes by a file and not by arguments.
    await writeFile(at.process, JSON.stringify(config), { mode: 0o600 })
    const args = ['--root', runtimeRoot, '--log', at.log, 'exec', '--process', at.process, '--pid-file', at.pid]
    const child = spawn(runtime, [...args, files.containerId], { stdio: ['pipe', 'pipe', 'pipe'] })
    child.stdin.on('error', () => {})
    const ended = new Promise<number>((resolve) => {
      child.on('error', () => resolve(255))
      child.on('close', (code) => resolve(code ?? 255))
    })
    const tidy = () => rm(directory, { recursive: true, force: true })
    const pid = await this.#started(child, at.pid, directory, signal).catch(async (error: unknown) => {
      child.kill('SIGKILL')
      await tidy()
      throw error
    })
    if (pid === undefined) {
      const fault = refusal(request, existsSync(at.log) ? readFileSync(at.log, 'utf8') : '')
      await tidy()
      throw fault
    }
    const kill = (name: string, whole: boolean) => {
      // While the runtime waits for it, the number is still its own. A command leads a session, hence a group.
      if (child.exitCode === null && child.signalCode === null) sendSignal(whole ? -pid : pid, name as NodeJS.Signals)
    }
    const abort = () => kill('SIGKILL', true)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    const exited = ended.then(async (code) => {
      signal.removeEventListener('abort', abort)
      await tidy()
      return { code }
    })
    return {
      stdin: child.stdin,
      stdout: child.stdout,
      stderr: child.stderr,
      resize() {},
      kill: (name) => kill(name, false),
      exited,
    }
  }

  async #configure({ command, env, cwd, user }: ExecRequest): Promise<ProcessConfig> {
    const { files, dropCapabilities } = this.#options
    const init = files.livePid
    if (init === undefined) throw new Fault('conflict', 'cannot run a command inside: the container has ended')
    const first = await this.#options.process()
    const { home: _home, ...who } =
      user === undefined ? { ...first.user, home: '' } : findUser(user, `/proc/${init}/root`)
    const added = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    return {
      ...first,
      args: command,
      user: who,
      cwd: cwd ?? first.cwd,
      env: [...first.env.filter((pair) => !(pair.slice(0, pair.indexOf('=')) in env)), ...added],
      capabilities: capabilitiesFor(who.uid, dropCapabilities),
    }
  }

  /** The process number once the command runs; undefined when the runtime gave up. */
  async #started(
    child: ChildProcess,
    file: string,
    directory: string,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const wakeup = new Wakeup()
    const watcher = watch(directory, { persistent: false }, () => wakeup.ring())
    watcher.on('error', () => {})
    child.once('exit', () => wakeup.ring())
    child.once('error', () => wakeup.ring())
    try {
      for (;;) {
        const over = child.exitCode !== null || child.signalCode !== null || child.pid === undefined
        if (existsSync(file)) return Number(readFileSync(file, 'utf8'))
        if (over) return undefined
        signal.throwIfAborted()
        await wakeup.next({ clock: this.#options.clock, withinMs: 100, signal })
      }
    } finally {
      watcher.close()
    }
  }
}

function refusal({ command: [program], cwd }: ExecRequest, log: string): Fault {
  const said = /msg="((?:[^"\\]|\\.)*)"/.exec(log)?.[1] ?? 'the runtime refused it'
  return execFault(program, cwd, log) ?? new Fault('unavailable', `cannot run "${program}" in the container: ${said}`)
}
