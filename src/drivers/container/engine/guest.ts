import { type Duplex, PassThrough, Writable } from 'node:stream'
import { z } from 'zod'
import type { ExecRequest, Execution, Guest, TerminalSize } from '../../../guest/guest.ts'
import type { Clock } from '../../../kit/clock.ts'
import { Fault } from '../../../model/fault.ts'
import { execFault } from '../faults.ts'
import { processHas, sendSignal } from '../processes.ts'
import { sizedInput } from '../sized-input.ts'
import { type EngineClient, EngineError } from './client.ts'
import { FrameCutter } from './frames.ts'

export interface EngineGuestOptions {
  client: EngineClient
  clock: Clock
  containerId: string
}

/**
 * Commands by the engine's exec. It offers no way to send them a signal, so that is done from outside, by the number
 * that the engine gives; where the engine is on another machine the connection is cut instead.
 */
export class EngineGuest implements Guest {
  readonly #options: EngineGuestOptions

  constructor(options: EngineGuestOptions) {
    this.#options = options
  }

  async exec(request: ExecRequest, { signal }: { signal: AbortSignal }): Promise<Execution> {
    signal.throwIfAborted()
    const { client } = this.#options
    const { command, cwd, terminal } = request
    try {
      const id = await this.#create(request)
      const { rows, columns } = terminal ?? { rows: 0, columns: 0 }
      // Docker and Podman call the size by different names.
      const size = terminal ? { ConsoleSize: [rows, columns], h: rows, w: columns } : {}
      const start = { Detach: false, Tty: terminal !== undefined, ...size }
      const { socket, head } = await client.hijack(`/exec/${id}/start`, start, signal)
      const streams = terminal ? rawStreams(socket, head) : framedStreams(socket, head)
      if (terminal) await this.#resize(id, terminal)
      const pid = await this.#started(id, streams.ended)
      const state = pid === undefined ? await this.#inspect(id) : undefined
      if (state && (state.ExitCode === 126 || state.ExitCode === 127)) {
        const complaint = streams.beginning()
        const fault = /OCI runtime|exec failed/.test(complaint) && execFault(command[0], cwd, complaint)
        if (fault) throw fault
      }
      return this.#execution(id, pid, socket, streams, signal)
    } catch (error) {
      if (!(error instanceof EngineError)) throw error
      if (error.status === 409 || /not running|state improper/.test(error.message))
        throw new Fault('conflict', 'cannot run a command inside: the container has ended')
      const other = new Fault('unavailable', `cannot run "${command[0]}" in the container: ${error.message}`)
      throw execFault(command[0], cwd, error.message) ?? other
    }
  }

  #execution(id: string, pid: number | undefined, socket: Duplex, streams: Streams, signal: AbortSignal): Execution {
    const kill = (name: string, whole: boolean) => {
      if (pid !== undefined && processHas(pid, this.#options.containerId))
        sendSignal(whole ? -pid : pid, name as NodeJS.Signals)
      else if (name === 'SIGKILL') socket.destroy()
    }
    const abort = () => kill('SIGKILL', true)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    const exited = streams.ended.then(async () => {
      signal.removeEventListener('abort', abort)
      return { code: await this.#exitCode(id) }
    })
    const { stdin, stdout, stderr } = streams
    const send = (name: string) => kill(name, false)
    if (stderr) return { stdin, stdout, stderr, resize() {}, kill: send, exited }
    const near = pid !== undefined && processHas(pid, this.#options.containerId) ? pid : undefined
    const resize = (size: TerminalSize) => this.#resize(id, size)
    return { ...sizedInput({ stdin, pid: near, resize }), stdout, stderr, kill: send, exited }
  }

  async #create({ command, env, cwd, user, terminal }: ExecRequest): Promise<string> {
    const body = {
      ...{ AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: terminal !== undefined, Cmd: command },
      Env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
      ...(cwd === undefined ? {} : { WorkingDir: cwd }),
      ...(user === undefined ? {} : { User: user }),
    }
    const answer = await this.#options.client.call('POST', `/containers/${this.#options.containerId}/exec`, { body })
    return z.object({ Id: z.string().regex(/^[0-9a-f]+$/) }).parse(answer).Id
  }

  /** The number of the command once it runs; undefined when it was over before we could see it. */
  async #started(id: string, ended: Promise<void>): Promise<number | undefined> {
    let over = false
    const ending = ended.then(() => {
      over = true
    })
    while (!over) {
      const { Running, Pid } = await this.#inspect(id)
      if (Running && Pid > 0) return Pid
      await Promise.race([ending, this.#options.clock.sleep(5)])
    }
    return undefined
  }

  async #exitCode(id: string): Promise<number> {
    for (let tries = 0; tries < 400; tries++) {
      const state = await this.#inspect(id).catch(() => undefined)
      if (state === undefined) break
      if (!state.Running) return state.ExitCode ?? 255
      await this.#options.clock.sleep(10)
    }
    return 255
  }

  async #inspect(id: string): Promise<ExecState> {
    return ExecState.parse(await this.#options.client.call('GET', `/exec/${id}/json`))
  }

  /** Of a command that has just ended there is nothing to resize. */
  async #resize(id: string, { columns, rows }: TerminalSize): Promise<void> {
    await this.#options.client.call('POST', `/exec/${id}/resize?w=${columns}&h=${rows}`).catch(() => {})
  }
}

const ExecState = z.object({
  Running: z.boolean(),
  ExitCode: z.int().nullish(),
  Pid: z.int().nonnegative().default(0),
})
type ExecState = z.infer<typeof ExecState>

interface Streams {
  stdin: Writable
  stdout: PassThrough
  stderr: PassThrough | undefined
  /** Settles when the engine has sent the last of it. */
  ended: Promise<void>
  /** The first of what came. */
  beginning(): string
}

function rawStreams(socket: Duplex, head: Buffer): Streams {
  const stdout = new PassThrough()
  return { stdout, stderr: undefined, ...connect(socket, head, [stdout], (chunk) => stdout.write(chunk)) }
}

function framedStreams(socket: Duplex, head: Buffer): Streams {
  const streams = { stdout: new PassThrough(), stderr: new PassThrough() }
  const cutter = new FrameCutter()
  const take = (chunk: Buffer) => {
    let free = true
    for (const { stream, payload } of cutter.cut(chunk)) free = streams[stream].write(payload) && free
    return free
  }
  return { ...streams, ...connect(socket, head, [streams.stdout, streams.stderr], take) }
}

/** Stops reading while the reader of our streams is behind. */
function connect(
  socket: Duplex,
  head: Buffer,
  outputs: readonly PassThrough[],
  take: (chunk: Buffer) => boolean,
): Pick<Streams, 'stdin' | 'ended' | 'beginning'> {
  const kept: Buffer[] = []
  let size = 0
  const hear = (chunk: Buffer) => {
    if (size < 4096) kept.push(chunk.subarray(0, 4096 - size))
    size += chunk.length
    if (!take(chunk)) socket.pause()
  }
  for (const output of outputs) {
    output.on('drain', () => {
      if (outputs.every(({ writableNeedDrain }) => !writableNeedDrain)) socket.resume()
    })
    // Who does not want it any more must not hold up the rest.
    output.on('error', () => {})
  }
  const ended = new Promise<void>((resolve) => {
    const end = () => {
      for (const output of outputs) output.end()
      resolve()
    }
    socket.on('end', end)
    socket.on('close', end)
    socket.on('error', end)
  })
  if (head.length > 0) hear(head)
  socket.on('data', hear)
  const stdin = new Writable({
    write: (chunk: Buffer, _encoding, done) => void (socket.writable ? socket.write(chunk, () => done()) : done()),
    final: (done) => {
      if (socket.writable) socket.end()
      done()
    },
  })
  return { stdin, ended, beginning: () => Buffer.concat(kept).toString() }
}
