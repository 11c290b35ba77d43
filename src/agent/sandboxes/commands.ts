import type { GuestChannel, GuestExecution, StartRequest } from '../../guest/channel.ts'
import { Fault } from '../../model/fault.ts'

/**
 * Commands in guests. A guest lets in one at a time to each, so those that somebody is joined to are remembered here:
 * whoever signals one, or writes to it, then goes the way that is open already.
 */
export class Commands {
  readonly #joined = new WeakMap<GuestChannel, Map<number, GuestExecution>>()

  async start(channel: GuestChannel, request: StartRequest, options: Options): Promise<GuestExecution> {
    return this.#remember(channel, await channel.start(request, options))
  }

  async attach(
    channel: GuestChannel,
    { pid, from }: { pid: number; from: number },
    options: Options,
  ): Promise<GuestExecution> {
    return this.#remember(channel, await channel.attach(pid, { from, ...options }))
  }

  async signal(channel: GuestChannel, { pid, signal }: { pid: number; signal: string }, options: Options) {
    await this.#reach(channel, pid, options, (command) => command.kill(signal))
  }

  async write(
    channel: GuestChannel,
    { pid, data, end }: { pid: number; data: Buffer; end: boolean },
    options: Options,
  ) {
    const closed = () =>
      new Fault('conflict', `standard input of the command with process id ${pid} is closed, and takes no more`)
    const doing = this.#reach(channel, pid, options, async (command) => {
      if (!command.stdin.writable) throw closed()
      const written = Promise.withResolvers<void>()
      command.stdin.write(data, (error) => (error ? written.reject(error) : written.resolve()))
      await Promise.race([written.promise, failure(command), aborted(options.signal)])
      if (end) command.stdin.end()
    })
    // So the guest says it, which knows better than this side of a way in that was just opened.
    await doing.catch((error: unknown) => {
      throw error instanceof Fault && error.code === 'invalid' ? closed() : error
    })
  }

  /** Does something to a command that runs, and resolves once the guest has heard of it. */
  async #reach(channel: GuestChannel, pid: number, options: Options, act: Act): Promise<void> {
    const command = (await channel.processes(options)).find((each) => each.pid === pid)
    if (!command)
      throw new Fault('not_found', `no command with process id ${pid} is known in the sandbox; "sandbox ps" lists them`)
    if (!command.running)
      throw new Fault('conflict', `the command with process id ${pid} has ended already, with code ${command.code}`)
    const joined = this.#joined.get(channel)?.get(pid)
    if (joined) return this.#doIn(channel, joined, options, act)
    const over = new AbortController()
    const signal = AbortSignal.any([options.signal, over.signal])
    // Past all that it wrote: only the way in is wanted.
    const opened = await channel.attach(pid, { from: Number.MAX_SAFE_INTEGER, signal })
    try {
      await this.#doIn(channel, opened, options, act)
    } finally {
      opened.exited.catch(() => {})
      over.abort(new Fault('unavailable', 'the command was let go of'))
    }
  }

  /** A guest takes things in their order: when it answers a question put after them, it has heard them. */
  async #doIn(channel: GuestChannel, command: GuestExecution, options: Options, act: Act): Promise<void> {
    await act(command)
    await Promise.race([channel.processes(options), failure(command)])
  }

  #remember(channel: GuestChannel, execution: GuestExecution): GuestExecution {
    const known = this.#joined.get(channel) ?? new Map<number, GuestExecution>()
    this.#joined.set(channel, known)
    known.set(execution.pid, execution)
    const forget = () => void (known.get(execution.pid) === execution && known.delete(execution.pid))
    execution.exited.then(forget, forget)
    return execution
  }
}

type Options = { signal: AbortSignal }
type Act = (command: GuestExecution) => Promise<void> | void

/** Never resolves. */
function failure(command: GuestExecution): Promise<never> {
  return new Promise((_, reject) => command.exited.catch(reject))
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) return reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
