import { PassThrough } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ExecRequest, Execution, Guest } from '../../guest/guest.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { type FakeAttempt, numberOf } from './fake-attempt.ts'

/** The few programs that a fake task has: echo, cat, env, sleep, exit, true, false. No terminal. */
export class FakeGuest implements Guest {
  readonly #attempt: FakeAttempt
  readonly #clock: Clock

  constructor(attempt: FakeAttempt, clock: Clock) {
    this.#attempt = attempt
    this.#clock = clock
  }

  async exec(request: ExecRequest, { signal }: { signal: AbortSignal }): Promise<Execution> {
    const { plan, phase, over } = this.#attempt
    signal.throwIfAborted()
    if (phase !== 'running')
      throw new Fault('conflict', `task "${plan.task}" has ended, so that nothing can be run in it`)
    if (request.terminal) throw new Fault('invalid', 'fake tasks have no terminals')
    const [name = '', ...args] = request.command
    const program = programs[name]
    if (!program) {
      const known = Object.keys(programs).join(', ')
      throw new Fault('invalid', `the program "${name}" was not found in fake task "${plan.task}"; it has ${known}`)
    }
    const io = { stdin: new PassThrough(), stdout: new PassThrough(), stderr: new PassThrough() }
    const killed = new AbortController()
    const death = Promise.withResolvers<number>()
    const kill = (killer: string) => {
      death.resolve(128 + numberOf(killer))
      killed.abort()
    }
    const end = AbortSignal.any([signal, over])
    const onEnd = () => kill('SIGKILL')
    end.addEventListener('abort', onEnd, { once: true })
    const env = { ...plan.env, ...request.env }
    const ran = program({ args, env, ...io, clock: this.#clock, signal: killed.signal }).catch(() => 1)
    const exited = Promise.race([death.promise, ran]).then((code) => {
      end.removeEventListener('abort', onEnd)
      io.stdout.end()
      io.stderr.end()
      return { code }
    })
    return { ...io, resize: () => {}, kill, exited }
  }
}

interface Run {
  args: string[]
  env: Record<string, string>
  stdin: PassThrough
  stdout: PassThrough
  stderr: PassThrough
  clock: Clock
  signal: AbortSignal
}

const programs: Readonly<Record<string, (run: Run) => Promise<number>>> = {
  echo: async ({ args, stdout }) => {
    stdout.write(`${args.join(' ')}\n`)
    return 0
  },
  cat: async ({ stdin, stdout, signal }) => {
    await pipeline(stdin, stdout, { signal, end: false })
    return 0
  },
  env: async ({ env, stdout }) => {
    for (const [name, value] of Object.entries(env)) stdout.write(`${name}=${value}\n`)
    return 0
  },
  sleep: async ({ args, clock, signal }) => {
    await clock.sleep(Number(args[0] ?? 0) * 1000, { signal })
    return 0
  },
  exit: async ({ args }) => Number(args[0] ?? 0),
  true: async () => 0,
  false: async () => 1,
}
