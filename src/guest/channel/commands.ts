import { Fault } from '../../model/fault.ts'
import type { GuestExecution, GuestProcess, StartRequest } from '../channel.ts'
import { readEntries } from './entries.ts'
import type { Fields } from './fields.ts'
import { GuestStream } from './stream.ts'
import type { Wire } from './wire.ts'

/** Starts a command. Aborting kills it; one that is detached is only let go of. */
export async function startCommand(
  wire: Wire,
  request: StartRequest,
  { signal }: { signal: AbortSignal },
): Promise<GuestExecution> {
  const [columns, rows] = request.terminal ? terminalSize(request.terminal) : []
  const stream = new GuestStream(
    wire,
    'exec',
    {
      arg: request.command,
      env: Object.entries(request.env).map(([name, value]) => `${name}=${value}`),
      cwd: request.cwd,
      user: request.user,
      columns,
      rows,
      detached: request.detached,
    },
    signal,
  )
  const reply = await stream.reply(signal)
  return execution(stream, reply, { terminal: request.terminal !== undefined, signal, kills: !request.detached })
}

/** Joins a command again. Aborting lets go of it. */
export async function attachCommand(
  wire: Wire,
  pid: number,
  { from, signal }: { from: number; signal: AbortSignal },
): Promise<GuestExecution> {
  const stream = new GuestStream(wire, 'attach', { pid, offset: Math.max(0, from) }, signal)
  const reply = await stream.reply(signal)
  stream.setCredit(reply.number('credit'))
  return execution(stream, reply, { terminal: reply.has('columns'), signal, kills: false })
}

export async function listCommands(wire: Wire, { signal }: { signal: AbortSignal }): Promise<GuestProcess[]> {
  const stream = new GuestStream(wire, 'processes', {}, signal)
  await stream.reply(signal)
  const found: GuestProcess[] = []
  for await (const entry of readEntries(stream.reader(0))) {
    const running = entry.number('running') === 1
    found.push({
      pid: entry.number('pid'),
      command: entry.texts('arg'),
      startedAt: entry.number('time'),
      running,
      code: running ? null : entry.number('code'),
    })
  }
  return found
}

interface How {
  terminal: boolean
  signal: AbortSignal
  kills: boolean
}

function execution(stream: GuestStream, reply: Fields, { terminal, signal, kills }: How): GuestExecution {
  const abort = () => {
    if (!kills) return stream.fail(signal.reason)
    stream.signal(signalNumber('SIGKILL'))
    stream.discard()
  }
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort, { once: true })
  const exited = stream.finished.then((fields) => ({ code: fields.number('code') }))
  const settled = () => signal.removeEventListener('abort', abort)
  exited.then(settled, settled)
  return {
    pid: reply.number('pid'),
    from: reply.number('offset'),
    stdin: stream.writer(),
    stdout: stream.reader(0),
    stderr: terminal ? undefined : stream.reader(1),
    resize: (size) => {
      const [columns, rows] = terminalSize(size)
      stream.resize({ columns, rows })
    },
    kill: (name) => stream.signal(signalNumber(name)),
    exited,
  }
}

function terminalSize({ columns, rows }: { columns: number; rows: number }): [number, number] {
  const bounded = (value: number) => Math.min(65_535, Math.max(1, Math.trunc(value) || 1))
  return [bounded(columns), bounded(rows)]
}

/** Linux gives signals the same numbers on amd64 and arm64; the host may be another system. */
const linuxSignals: Record<string, number> = {
  ...{ SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGILL: 4, SIGTRAP: 5, SIGABRT: 6, SIGBUS: 7, SIGFPE: 8, SIGKILL: 9 },
  ...{ SIGUSR1: 10, SIGSEGV: 11, SIGUSR2: 12, SIGPIPE: 13, SIGALRM: 14, SIGTERM: 15, SIGCHLD: 17, SIGCONT: 18 },
  ...{ SIGSTOP: 19, SIGTSTP: 20, SIGTTIN: 21, SIGTTOU: 22, SIGURG: 23, SIGXCPU: 24, SIGXFSZ: 25, SIGVTALRM: 26 },
  ...{ SIGPROF: 27, SIGWINCH: 28, SIGIO: 29, SIGPWR: 30, SIGSYS: 31 },
}

function signalNumber(name: string): number {
  const number = linuxSignals[name]
  if (number === undefined) throw new Fault('invalid', `there is no signal "${name}"; names are such as SIGTERM`)
  return number
}
