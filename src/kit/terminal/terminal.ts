import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import { PassThrough, type Readable, type Writable } from 'node:stream'
import { ReadStream } from 'node:tty'
import type { Clock } from '../clock.ts'
import { loadPty, type Pty, type TerminalSize } from './pty.ts'
import { spawnByScript } from './script.ts'

/**
 * Commands of this machine in a terminal of their own: the command leads a session whose controlling terminal it is,
 * so that Ctrl-C, job control and window sizes work as at a desk.
 */
export interface TerminalSpawn {
  /** An absolute path: nothing is looked up here. */
  command: string
  args: readonly string[]
  /** The whole environment. */
  env: Readonly<Record<string, string>>
  cwd: string
  size: TerminalSize
  clock: Clock
}

export interface TerminalProcess {
  /** Of the command, which is also its process group and session. */
  readonly pid: number
  /** Keystrokes. */
  readonly stdin: Writable
  /** What the terminal shows. */
  readonly stdout: Readable
  resize(size: TerminalSize): void
  /** To the command's process group. */
  kill(signal: NodeJS.Signals): void
  /** Settles when the command has ended and what it wrote is in `stdout`; never rejects. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/** Undefined when terminals work here, else why not, in a sentence. */
export function terminalsLacking(): string | undefined {
  if (process.platform === 'darwin') return existsSync('/usr/bin/script') ? undefined : '/usr/bin/script is missing'
  const pty = loadPty()
  if ('lacking' in pty) return pty.lacking
  return setsid() === undefined ? 'the program setsid is missing; install util-linux' : undefined
}

/** Rejects when there is no terminal to be had or the command cannot be started. */
export async function spawnInTerminal(options: TerminalSpawn): Promise<TerminalProcess> {
  if (process.platform === 'darwin') return spawnByScript(options)
  const opener = loadPty()
  const session = setsid()
  if ('lacking' in opener || session === undefined) throw new Error(terminalsLacking())
  const pty = opener.open(options.size)
  try {
    const child = spawn(session, ['-c', options.command, ...options.args], {
      cwd: options.cwd,
      env: options.env,
      stdio: [pty.slave, pty.slave, pty.slave],
    })
    const ended = exitOf(child)
    await started(child)
    return attach(child, pty, ended, options.clock)
  } catch (error) {
    closeSync(pty.master)
    throw error
  } finally {
    closeSync(pty.slave)
  }
}

type Ended = TerminalProcess['exited']

function attach(child: ChildProcess, pty: Pty, ended: Ended, clock: Clock): TerminalProcess {
  const { pid } = child
  if (pid === undefined) throw new Error('the command has no process number')
  const master = new ReadStream(pty.master)
  const stdout = new PassThrough()
  let open = true
  let reads = 0
  const closed = new Promise<void>((resolve) => {
    // Once nobody holds the other end, reading fails with EIO: that is how a terminal says goodbye.
    master.on('error', () => {})
    master.on('close', () => {
      open = false
      stdout.end()
      resolve()
    })
  })
  master.on('data', (chunk) => {
    reads += 1
    if (!stdout.write(chunk)) master.pause()
  })
  stdout.on('drain', () => master.resume())
  stdout.on('close', () => master.destroy())
  const exited = ended.then(async (exit) => {
    const done = new AbortController()
    await Promise.race([closed, quiet(clock, () => (master.isPaused() ? -1 : reads), done.signal)])
    done.abort()
    master.destroy()
    await closed
    return exit
  })
  return {
    pid,
    stdin: master,
    stdout,
    resize: (size) => {
      if (open) pty.resize(size)
    },
    kill: (signal) => killGroup(pid, signal),
    exited,
  }
}

/** Somebody the command left behind may hold the terminal for ever: once nothing more came for a while, let go of it. */
async function quiet(clock: Clock, reads: () => number, signal: AbortSignal): Promise<void> {
  for (let before = Number.NaN; !signal.aborted; ) {
    const now = reads()
    if (now === before && now >= 0) return
    before = now
    await clock.sleep(200, { signal }).catch(() => {})
  }
}

function killGroup(pid: number, signal: NodeJS.Signals): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, signal)
      return
    } catch {
      // No such group yet, or all gone.
    }
  }
}

export function exitOf(child: ChildProcess): Ended {
  return new Promise((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }))
    child.once('error', () => resolve({ code: 127, signal: null }))
  })
}

export function started(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
}

function setsid(): string | undefined {
  return ['/usr/bin/setsid', '/bin/setsid', '/usr/local/bin/setsid'].find((path) => existsSync(path))
}
