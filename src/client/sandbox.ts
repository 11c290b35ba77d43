import { createServer, type Server } from 'node:net'
import { type Duplex, Readable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import type { PublicBuild } from '../contract/build.ts'
import type { PublicSandbox } from '../contract/sandbox.ts'
import { Fault } from '../model/fault.ts'
import type { FileEntry, FileEvent, GuestMetrics, GuestProcess } from '../model/guest.ts'
import type { signalNames } from '../model/job.ts'
import type { Egress } from '../model/sandbox.ts'
import type { Client } from './client.ts'
import type { Execution, SandboxExecOptions } from './exec.ts'

/** Of standard input at a time: as base64 it fits a request. */
const inputBytes = 128 * 1024

/** A command line for `/bin/sh -c`, or a program with its arguments. */
export type Command = string | readonly string[]
export type RunOptions = Omit<SandboxExecOptions, 'command' | 'terminal'> & {
  signal?: AbortSignal | undefined
  /** Standard input, whole. */
  input?: string | Uint8Array | undefined
}

export type SignalName = (typeof signalNames)[number]

export interface RunResult {
  /** 128 + n for death by signal n. */
  code: number
  stdout: string
  stderr: string
}

/**
 * One sandbox, to be used. Disposing kills it: `await using sandbox = await tutti.sandboxes.create()`. Whatever fails
 * rejects with the Fault that the control plane said.
 */
export class Sandbox implements AsyncDisposable {
  readonly id: string
  readonly files: SandboxFiles
  readonly #client: Client
  #info: PublicSandbox

  constructor(client: Client, info: PublicSandbox) {
    this.#client = client
    this.#info = info
    this.id = info.id
    this.files = new SandboxFiles(client, info.id)
  }

  /** As it was when it was last heard of; `refresh` asks anew. */
  get info(): PublicSandbox {
    return this.#info
  }

  async refresh(): Promise<PublicSandbox> {
    return this.#take(await this.#client.getSandbox({ sandbox: this.id }))
  }

  /** Runs a command to its end. A code other than 0 is a result, not an error. */
  async exec(command: Command, options: RunOptions = {}): Promise<RunResult> {
    const { input, ...rest } = options
    const running = await this.start(command, rest)
    running.stdin.end(input ?? '')
    const [stdout, stderr, { code }] = await Promise.all([text(running.stdout), text(running.stderr), running.exited])
    return { code, stdout, stderr }
  }

  /** Runs a command and gives its streams as it goes. */
  start(command: Command, { signal, input: _input, ...request }: RunOptions = {}): Promise<Execution> {
    return this.#client.execSandbox({ sandbox: this.id }, { ...request, command: words(command) }, { signal })
  }

  /** A command on a terminal, by default a shell. */
  pty({
    command = ['/bin/sh'],
    columns = 80,
    rows = 24,
    ...options
  }: RunOptions & { command?: Command; columns?: number; rows?: number } = {}): Promise<Execution> {
    const { signal, input: _input, ...request } = options
    return this.#client.execSandbox(
      { sandbox: this.id },
      { ...request, command: words(command), terminal: { columns, rows } },
      { signal },
    )
  }

  /** Commands that were started in it: those that run, and the last that ended. */
  async processes(): Promise<GuestProcess[]> {
    return (await this.#client.sandboxProcesses({ sandbox: this.id })).processes
  }

  /**
   * Joins a command again that was let go of: what it has written as far as that is kept (1 MiB), or from an offset in
   * all that it ever wrote; then as it goes on. Several may be joined to one command; each hears all of it.
   */
  attach(pid: number, { from, signal }: { from?: number; signal?: AbortSignal } = {}): Promise<Execution> {
    const request = { pid, ...(from === undefined ? {} : { from }) }
    return this.#client.attachSandbox({ sandbox: this.id }, request, { signal })
  }

  /** Sends a signal to a command, and to what it started. */
  async signal(pid: number, signal: SignalName = 'SIGTERM'): Promise<void> {
    await this.#client.signalSandboxProcess({ sandbox: this.id, pid, body: { signal } })
  }

  /** Writes to a command's standard input, also while somebody is attached to it; `end` closes it after that. */
  async sendInput(pid: number, data: string | Uint8Array, { end = false }: { end?: boolean } = {}): Promise<void> {
    const bytes = Buffer.from(data as Uint8Array)
    for (let at = 0; at === 0 || at < bytes.length; at += inputBytes) {
      const piece = bytes.subarray(at, at + inputBytes).toString('base64')
      const isLast = at + inputBytes >= bytes.length
      const body = { data: piece, encoding: 'base64', end: end && isLast } as const
      await this.#client.writeSandboxInput({ sandbox: this.id, pid, body })
    }
  }

  /** A connection to a port inside. */
  connect(port: number, options: { signal?: AbortSignal } = {}): Promise<Duplex> {
    return this.#client.forwardSandbox({ sandbox: this.id, port }, options)
  }

  /** A port of this machine's loopback that leads to one inside; dispose it to close. */
  forward(port: number, { localPort = 0 }: { localPort?: number } = {}): Promise<Forwarded> {
    return forwardPort((options) => this.connect(port, options), localPort)
  }

  /** Where a port inside answers HTTP and WebSockets, for whoever has a token: as bearer, as `tutti-token` in the query. */
  url(port: number, path = '/'): string {
    return `${this.#client.url}/v1/sandboxes/${this.id}/ports/${port}${path.startsWith('/') ? path : `/${path}`}`
  }

  async pause(): Promise<PublicSandbox> {
    return this.#take(await this.#client.pauseSandbox({ sandbox: this.id }))
  }

  async resume(): Promise<PublicSandbox> {
    return this.#take(await this.#client.resumeSandbox({ sandbox: this.id }))
  }

  /** Copies that go on beside it. Rejects when none could be made, and when only some could, after killing those. */
  async fork(
    count = 1,
    options: { metadata?: Record<string, string>; env?: Record<string, string>; timeoutMs?: number | null } = {},
  ): Promise<Sandbox[]> {
    const { forks } = await this.#client.forkSandbox({ sandbox: this.id, body: { count, ...options } })
    const made = forks.flatMap((each) => ('sandbox' in each ? [new Sandbox(this.#client, each.sandbox)] : []))
    const [failed] = forks.flatMap((each) => ('fault' in each ? [each.fault] : []))
    if (!failed) return made
    await Promise.all(made.map((each) => each.kill()))
    throw new Fault(failed.code, `${count - made.length} of ${count} forks could not be made: ${failed.message}`)
  }

  /** A build to make others of; under a name when `template` says one. */
  async snapshot(options: { template?: string; tag?: string } = {}): Promise<PublicBuild> {
    return (await this.#client.snapshotSandbox({ sandbox: this.id, body: options })).build
  }

  /** Ends it for good. Killing one that is over changes nothing. */
  async kill(): Promise<void> {
    this.#take(await this.#client.killSandbox({ sandbox: this.id }))
  }

  /** How long it may run from now on; null: for ever. */
  async timeout(timeoutMs: number | null, options: { onTimeout?: 'kill' | 'pause' } = {}): Promise<PublicSandbox> {
    return this.#take(await this.#client.setSandboxTimeout({ sandbox: this.id, body: { timeoutMs, ...options } }))
  }

  async egress(egress: Egress): Promise<PublicSandbox> {
    return this.#take(await this.#client.setSandboxEgress({ sandbox: this.id, body: { egress } }))
  }

  /** Entries given as null are removed, the others stay. */
  async metadata(metadata: Record<string, string | null>): Promise<PublicSandbox> {
    return this.#take(await this.#client.updateSandbox({ sandbox: this.id, body: { metadata } }))
  }

  async metrics(): Promise<GuestMetrics> {
    return (await this.#client.sandboxMetrics({ sandbox: this.id })).metrics
  }

  /** What its machine wrote on its console so far. */
  logs(): Promise<string> {
    return this.#client.sandboxConsole({ sandbox: this.id })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }

  #take({ sandbox }: { sandbox: PublicSandbox }): PublicSandbox {
    this.#info = sandbox
    return sandbox
  }
}

/** Files of a sandbox, by their path in it. */
export class SandboxFiles {
  readonly #client: Client
  readonly #sandbox: string

  constructor(client: Client, sandbox: string) {
    this.#client = client
    this.#sandbox = sandbox
  }

  async read(path: string): Promise<Buffer> {
    return buffer(await this.stream(path))
  }

  async text(path: string): Promise<string> {
    return text(await this.stream(path))
  }

  stream(path: string, options: { offset?: number; length?: number; signal?: AbortSignal } = {}): Promise<Readable> {
    const { signal, ...part } = options
    return this.#client.readSandboxFile({ sandbox: this.#sandbox, path, ...part }, { signal })
  }

  /** Whole or not at all; directories above it are made. */
  async write(
    path: string,
    content: string | Uint8Array | Readable,
    { signal, ...options }: { mode?: number; user?: string; signal?: AbortSignal } = {},
  ): Promise<void> {
    const body = readableOf(content)
    const { mode, user } = options
    await this.#client.writeSandboxFile(
      {
        sandbox: this.#sandbox,
        path,
        ...(mode === undefined ? {} : { mode: mode.toString(8).padStart(3, '0') }),
        ...(user === undefined ? {} : { user }),
      },
      body,
      { signal },
    )
  }

  async list(path = '.'): Promise<FileEntry[]> {
    return (await this.#client.listSandboxFiles({ sandbox: this.#sandbox, path })).entries
  }

  async stat(path: string): Promise<FileEntry> {
    return (await this.#client.statSandboxFile({ sandbox: this.#sandbox, path })).entry
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path)
      return true
    } catch (error) {
      if (Fault.from(error).code === 'not_found') return false
      throw error
    }
  }

  async makeDirectory(path: string): Promise<void> {
    await this.#client.makeSandboxDirectory({ sandbox: this.#sandbox, body: { path } })
  }

  async move(path: string, to: string): Promise<void> {
    await this.#client.moveSandboxFile({ sandbox: this.#sandbox, body: { path, to } })
  }

  /** With everything below it. */
  async remove(path: string): Promise<void> {
    await this.#client.removeSandboxFile({ sandbox: this.#sandbox, path })
  }

  /** What changes, until `signal` fires or the loop is left; `ready` comes first. */
  watch(
    path: string,
    options: { recursive?: boolean; signal?: AbortSignal } = {},
  ): AsyncIterable<FileEvent | { kind: 'ready' }> {
    const { signal, recursive = false } = options
    return this.#client.watchSandboxFiles({ sandbox: this.#sandbox, path, recursive }, { signal })
  }
}

export interface Forwarded extends AsyncDisposable {
  readonly port: number
}

/** Listens on loopback; each connection is one of its own to the port inside. */
export async function forwardPort(
  connect: (options: { signal?: AbortSignal }) => Promise<Duplex>,
  localPort: number,
  onError: (error: unknown) => void = () => {},
): Promise<Forwarded> {
  const over = new AbortController()
  const server: Server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy())
    connect({ signal: over.signal }).then(
      (inside) => {
        inside.on('close', () => socket.destroySoon())
        socket.on('close', () => inside.destroy())
        socket.pipe(inside)
        inside.pipe(socket)
      },
      (error: unknown) => {
        socket.destroy()
        if (!over.signal.aborted) onError(error)
      },
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new Fault('conflict', `port ${localPort} of this machine is in use; choose another, or 0 for any`)
          : error,
      ),
    )
    server.listen(localPort, '127.0.0.1', resolve)
  })
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : localPort,
    [Symbol.asyncDispose]: async () => {
      over.abort(new Error('the port is not forwarded any more'))
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function words(command: Command): string | string[] {
  return typeof command === 'string' ? command : [...command]
}

export function readableOf(content: string | Uint8Array | Readable): Readable {
  if (content instanceof Readable) return content
  const bytes = Buffer.from(content)
  return Readable.from(bytes.length > 0 ? [bytes] : [], { objectMode: false })
}
