import type { GuestChannel, GuestExecution, StartRequest } from '../../guest/channel.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { SharedCommand } from './shared-command.ts'

/** As much as a guest keeps itself of a command that can be joined again. */
const keepBytes = 2 ** 20
/** Of one that ends with whoever started it. */
const keepOfOneBytes = 2 ** 18
/** What lies between a client and here holds some MiB, so that a slow one is seen to take something only now and then. */
const patienceMs = 30_000

/**
 * Commands in guests. A guest lets in one at a time to each, so the way in of those that somebody is joined to is kept
 * here, and shared by whoever comes after that.
 */
export class Commands {
  readonly #clock: Clock
  readonly #joined = new WeakMap<GuestChannel, Map<number, SharedCommand>>()
  /** The way into a command is opened by one at a time. */
  readonly #opening = new WeakMap<GuestChannel, Map<number, Promise<unknown>>>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Aborting kills the command; one that is detached is only let go of. */
  async start(channel: GuestChannel, request: StartRequest, { signal }: Options): Promise<GuestExecution> {
    const { detached = false } = request
    const kept = detached ? keepBytes : keepOfOneBytes
    const shared = await this.#open(channel, signal, { kept, detached }, (way) => channel.start(request, way))
    return shared.join({ from: 0, signal })
  }

  /** From an offset in its output, or what is kept next to it. Aborting lets go of it. */
  async attach(
    channel: GuestChannel,
    { pid, from }: { pid: number; from: number },
    { signal }: Options,
  ): Promise<GuestExecution> {
    return this.#alone(channel, pid, signal, async () => {
      const joined = this.#joined.get(channel)?.get(pid)
      const how = { kept: keepBytes, detached: true }
      const shared = joined ?? (await this.#open(channel, signal, how, (way) => channel.attach(pid, { from, ...way })))
      return shared.join({ from, signal })
    })
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
    const joined = () => this.#joined.get(channel)?.get(pid)?.execution
    const known = joined()
    if (known) return this.#doIn(channel, known, options, act)
    await this.#alone(channel, pid, options.signal, async () => {
      const over = new AbortController()
      const signal = AbortSignal.any([options.signal, over.signal])
      // Past all that it wrote: only the way in is wanted.
      const opened = joined() ?? (await channel.attach(pid, { from: Number.MAX_SAFE_INTEGER, signal }))
      try {
        await this.#doIn(channel, opened, options, act)
      } finally {
        opened.exited.catch(() => {})
        over.abort(new Fault('unavailable', 'the command was let go of'))
      }
    })
  }

  /** A guest takes things in their order: when it answers a question put after them, it has heard them. */
  async #doIn(channel: GuestChannel, command: GuestExecution, options: Options, act: Act): Promise<void> {
    await act(command)
    await Promise.race([channel.processes(options), failure(command)])
  }

  /** A way in that lasts as long as somebody is joined to it. */
  async #open(
    channel: GuestChannel,
    signal: AbortSignal,
    { kept, detached }: { kept: number; detached: boolean },
    open: (options: Options) => Promise<GuestExecution>,
  ): Promise<SharedCommand> {
    const over = new AbortController()
    const abort = () => over.abort(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    if (signal.aborted) abort()
    const execution = await open({ signal: over.signal }).catch((error: unknown) => {
      signal.removeEventListener('abort', abort)
      throw error
    })
    // One that is not detached ends with whoever started it; the others hear that.
    if (detached) signal.removeEventListener('abort', abort)
    const { pid } = execution
    const known = this.#joined.get(channel) ?? new Map<number, SharedCommand>()
    this.#joined.set(channel, known)
    const forget = () => {
      signal.removeEventListener('abort', abort)
      if (known.get(pid) === shared) known.delete(pid)
    }
    const shared = new SharedCommand(execution, {
      ...{ clock: this.#clock, keepBytes: kept, patienceMs },
      letGo: () => {
        // One that is being killed is let go of by its end.
        if (detached) forget()
        over.abort(new Fault('unavailable', 'nobody is joined to the command any more'))
      },
    })
    known.set(pid, shared)
    execution.exited.then(forget, forget)
    return shared
  }

  /** One after the other for each command. */
  async #alone<T>(channel: GuestChannel, pid: number, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const turns = this.#opening.get(channel) ?? new Map<number, Promise<unknown>>()
    this.#opening.set(channel, turns)
    const before = turns.get(pid)
    const over = Promise.withResolvers<void>()
    const turn = Promise.allSettled([before, over.promise])
    turns.set(pid, turn)
    void turn.then(() => turns.get(pid) === turn && turns.delete(pid))
    try {
      await Promise.race([before, aborted(signal)])
      return await work()
    } finally {
      over.resolve()
    }
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
