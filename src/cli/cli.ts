import type { Readable, Writable } from 'node:stream'
import type { Client } from '../client/client.ts'
import type { Clock } from '../kit/clock.ts'
import type { Random } from '../kit/random.ts'
import type { Home } from './home.ts'

/** All that a command may touch, handed in so that tests can look. */
export interface Cli {
  readonly stdin: Readable & { isTTY?: boolean; setRawMode?: (raw: boolean) => unknown }
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  readonly home: Home
  readonly clock: Clock
  readonly random: Random
  /** Aborts at the first Ctrl-C, or SIGTERM. */
  readonly signal: AbortSignal
  /** Takes Ctrl-C over until disposed: `signal` is then left alone. */
  onInterrupt(handler: () => void): Disposable
  /** A client for the chosen context. */
  client(contextName?: string): Promise<Client>
}

export interface Output extends Writable {
  isTTY?: boolean
  columns?: number
  rows?: number
}

/** What a command line came to. */
export interface Given {
  args: string[]
  options: Record<string, unknown>
  /** Words after `--`. */
  rest: string[]
}

/** Resolves with the exit code; nothing means 0. */
export type Command = (cli: Cli, given: Given) => Promise<number | undefined>

export interface CommandModule {
  run: Command
}
