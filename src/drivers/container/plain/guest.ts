import { spawn } from 'node:child_process'
import { existsSync, readFileSync, watch } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import type { ExecRequest, Execution, Guest, TerminalSize } from '../../../guest/guest.ts'
import type { Clock } from '../../../kit/clock.ts'
import { spawnInTerminal } from '../../../kit/terminal/terminal.ts'
import { Wakeup } from '../../../kit/wakeup.ts'
import { Fault } from '../../../model/fault.ts'
import { execFault } from '../faults.ts'
import { sendSignal } from '../processes.ts'
import { sizedInput } from '../sized-input.ts'
import type { AttemptFiles } from './attempt.ts'
import { capabilitiesFor, type ProcessConfig } from './bundle.ts'
import { findUser } from './users.ts'

export interface PlainGuestOptions {
  files: AttemptFiles
  clock: Clock
  /** An absolute path. */
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
    const { files, runtime, runtimeRoot, clock } = this.#options
    const config = await this.#configure(request)
    const directory = await mkdtemp(files.at('exec-')).catch(() => {
      throw ended()
    })
    await using undo = new AsyncDisposableStack()
    undo.defer(() => rm(directory, { recursive: true, force: true }))
    const at = { process: join(directory, 'process.json'), pid: join(directory, 'pid'), log: join(directory, 'log') }
    // The environment holds secrets, so it goes by a file and not by arguments.
    await writeFile(at.process, JSON.stringify(config), { mode: 0o600 })
    const args = ['--root', runtimeRoot, '--log', at.log, 'exec', '--process', at.process, '--pid-file', at.pid]
    const run = await this.#spawn(runtime, [...args, files.containerId], request.terminal)
    const pid = await startOf(run, { clock, directory, file: at.pid, signal })
    if (pid === undefined) throw refusal(request, existsSync(at.log) ? readFileSync(at.log, 'utf8') : '')
    const kill = (name: string, whole: boolean) => {
      // While the runtime waits for it, the number is still its own. A command leads a session, hence a group.
      if (!run.over()) sendSignal(whole ? -pid : pid, name as NodeJS.Signals)
    }
    const abort = () => kill('SIGKILL', true)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    const tidy = undo.move()
    const exited = run.ended.then(async (code) => {
      signal.removeEventListener('abort', abort)
      await tidy.disposeAsync()
      return { code }
    })
    const { stdout, stderr } = run
    const send = (name: string) => kill(name, false)
    if (!request.terminal) return { stdin: run.stdin, stdout, stderr, resize() {}, kill: send, exited }
    return { ...sizedInput({ ...run, pid }), stdout, stderr, kill: send, exited }
  }

  async #configure({ command, env, cwd, user, terminal }: ExecRequest): Promise<object> {
    const { files, dropCapabilities } = this.#options
    const first = files.livePid
    if (first === undefined) throw ended()
    const process = await this.#options.process().catch(() => {
      throw ended()
    })
    const who = user === undefined ? process.user : findUser(user, `/proc/${first}/root`)
    const added = Object.entries(env).map(([name, value]) => `${name}=${value}`)
    return {
      ...process,
      args: command,
      user: { uid: who.uid, gid: who.gid, additionalGids: who.additionalGids },
      cwd: cwd ?? process.cwd,
      env: [...process.env.filter((pair) => !(pair.slice(0, pair.indexOf('=')) in env)), ...added],
      capabilities: capabilitiesFor(who.uid, dropCapabilities),
      ...(terminal ? { terminal: true, consoleSize: { width: terminal.columns, height: terminal.rows } } : {}),
    }
  }

  /** The runtime passes on what it is given; a terminal of ours becomes one of the container's. */
  async #spawn(command: string, args: string[], size: TerminalSize | undefined): Promise<Run> {
    const { clock } = this.#options
    const env = { PATH: process.env['PATH'] ?? '', TERM: 'xterm' }
    let over = false
    const end = <T>(value: T): T => {
      over = true
      return value
    }
    if (size) {
      // Raw from the start: what comes before the runtime gets to it must not be translated twice.
      const raw = ['-c', 'stty raw -echo; exec "$@"', 'sh', command, ...args]
      const terminal = await spawnInTerminal({ command: '/bin/sh', args: raw, env, cwd: '/', size, clock })
      terminal.stdin.on('error', () => {})
      const ended = terminal.exited.then(({ code }) => end(code ?? 255))
      const { stdin, stdout, resize } = terminal
      const kill = () => terminal.kill('SIGKILL')
      return { stdin, stdout, stderr: undefined, resize, ended, over: () => over, kill }
    }
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env, cwd: '/' })
    child.stdin.on('error', () => {})
    const ended = new Promise<number>((resolve) => {
      child.on('error', () => resolve(end(255)))
      child.on('exit', () => end(undefined))
      child.on('close', (code) => resolve(end(code ?? 255)))
    })
    const { stdin, stdout, stderr } = child
    return { stdin, stdout, stderr, resize() {}, ended, over: () => over, kill: () => child.kill('SIGKILL') }
  }
}

interface Run extends Pick<Execution, 'resize'> {
  stdin: Writable
  stdout: Readable
  stderr: Readable | undefined
  /** The code, once all output has been read. */
  ended: Promise<number>
  over(): boolean
  kill(): void
}

interface StartOptions {
  clock: Clock
  directory: string
  file: string
  signal: AbortSignal
}

/** The command's process number once it runs; undefined when the runtime gave up. */
async function startOf(run: Run, { clock, directory, file, signal }: StartOptions): Promise<number | undefined> {
  const wakeup = new Wakeup()
  const watcher = watch(directory, { persistent: false }, () => wakeup.ring())
  watcher.on('error', () => {})
  run.ended.then(
    () => wakeup.ring(),
    () => {},
  )
  try {
    for (;;) {
      const over = run.over()
      const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
      if (text !== '') return Number(text)
      if (over) return undefined
      signal.throwIfAborted()
      await wakeup.next({ clock, withinMs: 50, signal })
    }
  } catch (error) {
    run.kill()
    throw error
  } finally {
    watcher.close()
  }
}

function ended(): Fault {
  return new Fault('conflict', 'cannot run a command inside: the container has ended')
}

function refusal({ command: [program], cwd }: ExecRequest, log: string): Fault {
  const said = /msg="((?:[^"\\]|\\.)*)"/.exec(log)?.[1] ?? 'the runtime refused it'
  return execFault(program, cwd, log) ?? new Fault('unavailable', `cannot run "${program}" in the container: ${said}`)
}
