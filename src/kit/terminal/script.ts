import { execFile, spawn } from 'node:child_process'
import { PassThrough } from 'node:stream'
import type { TerminalSize } from './pty.ts'
import type { TerminalProcess, TerminalSpawn } from './terminal.ts'

/**
 * Terminals where the C library cannot be called the way we do it (macOS, whose variadic ioctl needs other registers):
 * script(1) holds the terminal, stty(1) sets its size. Written from the manuals and not yet tried on such a machine.
 */
export async function spawnByScript(options: TerminalSpawn): Promise<TerminalProcess> {
  const { columns, rows } = options.size
  const begin = 'stty cols "$1" rows "$2"; shift 2; exec "$@"'
  const inside = ['/bin/sh', '-c', begin, 'sh', String(columns), String(rows), options.command, ...options.args]
  const child = spawn('/usr/bin/script', ['-q', '/dev/null', ...inside], {
    cwd: options.cwd,
    env: options.env,
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const exited = new Promise<Awaited<TerminalProcess['exited']>>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }))
  })
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve)
    child.once('error', reject)
  })
  const { pid } = child
  if (pid === undefined) throw new Error('the command has no process number')
  child.stderr.resume()
  child.stdin.on('error', () => {})
  const stdout = child.stdout.pipe(new PassThrough())
  return {
    pid,
    stdin: child.stdin,
    stdout,
    resize: (size) => resizeChildOf(pid, size),
    kill: (signal) => {
      execFile('/usr/bin/pkill', [`-${signal.replace(/^SIG/, '')}`, '-P', String(pid)], () => {})
    },
    exited,
  }
}

/** The terminal's name is known to the processes in it: ask for that of script's child. */
function resizeChildOf(pid: number, { columns, rows }: TerminalSize): void {
  execFile('/bin/ps', ['-ax', '-o', 'ppid=,tty='], (error, listing) => {
    const line = error ? undefined : listing.split('\n').find((row) => row.trim().startsWith(`${pid} `))
    const tty = line?.trim().split(/\s+/)[1]
    if (tty === undefined || !/^\w+$/.test(tty)) return
    execFile('/bin/stty', ['-f', `/dev/${tty}`, 'cols', String(columns), 'rows', String(rows)], () => {})
  })
}
