import type { GuestExecution } from '../../guest/channel.ts'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { CommandClient } from './command-client.ts'
import { KeptOutput, type OutputKind } from './kept-output.ts'

export interface SharedOptions {
  clock: Clock
  /** Bytes of output that are kept for those who join later, and that a client may be behind the command. */
  keepBytes: number
  /** A client that takes nothing for so long while others wait for it is let go of, ms. */
  patienceMs: number
  /** Gives up the way into the guest: nobody is joined any more. */
  letGo: () => void
}

/**
 * One way into a command, shared by all who are joined to it: each hears the output from where it joined, each may write,
 * signal and resize, all hear the end. As with Docker, a client that reads slowly slows the command, and with it all
 * others, once it is `keepBytes` behind; but unlike there, one that reads nothing does so only for `patienceMs`. It is then
 * let go of, and may join again. A command that has one client alone waits for it as long as it takes.
 */
export class SharedCommand {
  /** For whoever only writes or signals. */
  readonly execution: GuestExecution
  readonly #options: SharedOptions
  readonly #kept: KeptOutput
  readonly #clients = new Set<CommandClient>()
  /** Replaced whenever a client took something, came or went. */
  #moved = Promise.withResolvers<void>()
  #isOver = false

  constructor(execution: GuestExecution, options: SharedOptions) {
    this.execution = execution
    this.#options = options
    this.#kept = new KeptOutput({ from: execution.from, most: options.keepBytes })
    const { stdout, stderr } = execution
    const outputs = [this.#carry('stdout', stdout), ...(stderr ? [this.#carry('stderr', stderr)] : [])]
    // Why they broke off is said by `exited`.
    void Promise.allSettled(outputs).then(() => {
      this.#isOver = true
      this.#wake()
    })
    execution.exited.catch((error: unknown) => {
      for (const client of [...this.#clients]) client.leave(error)
    })
  }

  /** From an offset of the output, or what is kept next to it. Aborting lets go of it for this client alone. */
  join({ from, signal }: { from: number; signal: AbortSignal }): GuestExecution {
    const { start, end } = this.#kept
    const leave = () => client.leave(signal.reason)
    const client = new CommandClient({
      execution: this.execution,
      kept: this.#kept,
      from: Math.min(Math.max(from, start), end),
      clock: this.#options.clock,
      isOver: () => this.#isOver,
      moved: () => this.#tellMoved(),
      left: () => {
        signal.removeEventListener('abort', leave)
        this.#clients.delete(client)
        this.#tellMoved()
        if (this.#clients.size === 0) this.#options.letGo()
      },
    })
    this.#clients.add(client)
    this.#tellMoved()
    signal.addEventListener('abort', leave, { once: true })
    if (signal.aborted) leave()
    return client
  }

  async #carry(kind: OutputKind, output: AsyncIterable<Buffer>): Promise<void> {
    for await (const bytes of output) {
      await this.#room(bytes)
      this.#kept.add(kind, bytes)
      this.#wake()
    }
  }

  /** Resolves when all have taken what these bytes are written over, or were let go of. */
  async #room(bytes: Buffer): Promise<void> {
    const { clock } = this.#options
    let since = clock.monotonic()
    for (let behind = this.#behind(bytes); behind.length > 0; behind = this.#behind(bytes)) {
      if (behind.length < this.#clients.size) {
        await this.#waitFor(behind, since)
      } else {
        await this.#moved.promise
        since = clock.monotonic()
      }
    }
  }

  /** Whose next byte would be written over. */
  #behind({ length }: Buffer): CommandClient[] {
    const oldest = this.#kept.end + length - this.#kept.most
    return [...this.#clients].filter(({ position }) => position < oldest)
  }

  /** Resolves when something has changed; lets go of those whose time is up. */
  async #waitFor(behind: readonly CommandClient[], since: number): Promise<void> {
    const { clock, patienceMs } = this.#options
    const { promise } = this.#moved
    const left = (client: CommandClient) => Math.max(since, client.movedAt) + patienceMs - clock.monotonic()
    for (const client of behind) if (left(client) <= 0) client.leave(tooSlow(client, patienceMs))
    const shortest = Math.min(...behind.map(left))
    if (shortest <= 0) return
    const enough = new AbortController()
    const waited = clock.sleep(shortest, { signal: enough.signal }).catch(() => {})
    await Promise.race([promise, waited])
    enough.abort()
  }

  #tellMoved(): void {
    this.#moved.resolve()
    this.#moved = Promise.withResolvers()
  }

  #wake(): void {
    for (const client of [...this.#clients]) client.wake()
  }
}

function tooSlow({ pid, position }: CommandClient, patienceMs: number): Fault {
  return new Fault(
    'exhausted',
    `the output of the command with process id ${pid} was not read for ${patienceMs / 1000} s while others waited for more of it; join it again from offset ${position}`,
  )
}
