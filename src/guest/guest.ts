import type { Readable, Writable } from 'node:stream'

/** A way into a running task. What a driver cannot do it declares in its capabilities and refuses with a Fault. */
export interface Guest {
  /**
   * Starts a command inside. Aborting `signal` kills the command. Rejects with a Fault `invalid` when the program
   * cannot be started (not found, not executable, unknown user).
   */
  exec(request: ExecRequest, options: { signal: AbortSignal }): Promise<Execution>
}

export interface TerminalSize {
  columns: number
  rows: number
}

export interface ExecRequest {
  /** Program and arguments. */
  command: string[]
  env: Record<string, string>
  cwd?: string | undefined
  user?: string | undefined
  /** Set: the command gets a terminal of this size, and stderr comes with stdout. */
  terminal?: TerminalSize | undefined
}

export interface Execution {
  readonly stdin: Writable
  readonly stdout: Readable
  /** Absent with a terminal. */
  readonly stderr: Readable | undefined
  resize(size: TerminalSize): void
  /** A signal name such as SIGINT. */
  kill(signal: string): void
  /** Settles when the command has ended and its output has been read. 128 + n for death by signal n. */
  readonly exited: Promise<{ code: number }>
}
