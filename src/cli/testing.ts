import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { type Client, createClient } from '../client/client.ts'
import type { Transport, TransportRequest } from '../client/transport.ts'
import { systemClock } from '../kit/system-clock.ts'
import { systemRandom } from '../kit/system-random.ts'
import { Fault } from '../model/fault.ts'
import type { Cli } from './cli.ts'
import { findHome } from './home.ts'
import type { MainCommands } from './main-commands.ts'
import { runCli } from './program.ts'

/** A command line to test with: its own home, its output kept, and a control plane that answers as it is told. */
export interface TestCli extends AsyncDisposable {
  cli: Cli
  stdin: PassThrough
  interrupt(): void
  /** Runs one command line; what it wrote and its exit code. */
  run(...argv: string[]): Promise<{ code: number; out: string; err: string }>
}

/** What the control plane answers: a value is 200, a Fault is that fault. Keys are `METHOD /path`. */
export type Answers = Record<string, (request: TransportRequest) => unknown>

export async function testCli({
  answers,
  connect: open,
  env = {},
  now,
  commands,
}: TestCliOptions = {}): Promise<TestCli> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-cli-'))
  const stdin = new PassThrough()
  const interrupted = new AbortController()
  const handlers: (() => void)[] = []
  let out = new PassThrough()
  let err = new PassThrough()
  const clock = now === undefined ? systemClock : { ...systemClock, now: () => now }
  const cli: Cli = {
    stdin,
    get stdout() {
      return out
    },
    get stderr() {
      return err
    },
    env: { NO_COLOR: '1', ...env },
    home: findHome({ env: { TUTTI_HOME: directory } }),
    clock,
    random: systemRandom,
    signal: interrupted.signal,
    onInterrupt: (handler) => {
      handlers.push(handler)
      return { [Symbol.dispose]: () => void handlers.splice(handlers.indexOf(handler), 1) }
    },
    client: async (contextName): Promise<Client> => {
      if (open) return open()
      if (answers) return createClient({ transport: answering(answers), clock })
      const { connect } = await import('./connect.ts')
      return connect(cli, contextName)
    },
  }
  return {
    cli,
    stdin,
    interrupt: () => (handlers.at(-1) ?? (() => interrupted.abort(new Error('interrupted'))))(),
    run: async (...argv) => {
      out = new PassThrough()
      err = new PassThrough()
      const texts = [collect(out), collect(err)]
      const code = await runCli(argv, commands ?? withoutMain, cli)
      out.end()
      err.end()
      const [stdout = '', stderr = ''] = await Promise.all(texts)
      return { code, out: stdout, err: stderr }
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  }
}

/** What needs nothing of main/. */
const withoutMain: Partial<MainCommands> = { build: { list: () => import('./commands/build-list.ts') } }

export interface TestCliOptions {
  /** What main/ hands in. */
  commands?: Partial<MainCommands>
  /** Without these the command line looks for a real control plane. */
  answers?: Answers
  /** A client of the test's own. */
  connect?: () => Client
  env?: Record<string, string>
  /** What the clock shows. */
  now?: number
}

function answering(answers: Answers): Transport {
  return {
    url: 'https://control.test:7447',
    request: async (request) => {
      const path = request.path.split('?')[0] ?? ''
      const answer = answers[`${request.method} ${path}`]
      const body = new PassThrough()
      try {
        if (!answer) throw new Fault('not_found', `there is nothing at ${request.method} ${path}`)
        const value = answer(request)
        if (value === undefined) body.end()
        else body.end(typeof value === 'string' || Buffer.isBuffer(value) ? value : JSON.stringify(value))
        return { status: value === undefined ? 204 : 200, body }
      } catch (error) {
        const { code, message, places } = Fault.from(error)
        body.end(JSON.stringify({ code, message, places }))
        return { status: 400, body }
      }
    },
    socket: async () => {
      throw new Fault('unavailable', 'there are no sockets here')
    },
    [Symbol.asyncDispose]: async () => {},
  }
}

async function collect(stream: PassThrough): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}
