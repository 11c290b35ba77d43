import { Readable, Writable } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import type { z } from 'zod'
import type { ExecRequest } from '../contract/allocation.ts'
import type { SandboxExecRequest } from '../contract/sandbox.ts'
import { Fault } from '../model/fault.ts'
import { type FrameKind, frame } from '../wire/frames.ts'
import { parseFault } from './logs.ts'
import { toFault } from './read-reply.ts'
import type { Transport } from './transport.ts'

export type ExecOptions = z.input<typeof ExecRequest>
export type SandboxExecOptions = z.input<typeof SandboxExecRequest>

/** A command that runs inside a task or a sandbox. */
export interface Execution {
  /** Ending it ends the command's standard input. */
  readonly stdin: Writable
  readonly stdout: Readable
  /** Stays empty with a terminal. */
  readonly stderr: Readable
  resize(size: { columns: number; rows: number }): void
  /** A signal name such as SIGINT. */
  kill(signal: string): void
  /** Lets go of it: a detached command goes on, any other is killed. */
  close(): void
  /** Settles when the command has ended; rejects when the connection broke first. 128 + n for death by signal n. */
  readonly exited: Promise<{ code: number }>
}

/** A frame of standard input is at most this long. */
const maxChunk = 64 * 1024

export async function openExecution(
  transport: Transport,
  path: string,
  request: ExecOptions | SandboxExecOptions,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Execution> {
  const socket = await transport.socket(path, { signal })
  const exited = Promise.withResolvers<{ code: number }>()
  // Somebody who only reads the output need not look at the exit.
  exited.promise.catch(() => {})
  const started = Promise.withResolvers<void>()
  const stdout = output(socket)
  const stderr = output(socket)
  const fail = (error: unknown) => {
    started.reject(error)
    exited.reject(error)
    stdout.push(null)
    stderr.push(null)
    socket.close()
  }
  signal?.addEventListener('abort', () => socket.terminate(), { once: true })
  socket.on('message', (data: RawData, isBinary: boolean) => {
    const bytes = toBuffer(data)
    if (!isBinary) {
      const fault = refusal(bytes)
      return fault ? fail(fault) : started.resolve()
    }
    const payload = bytes.subarray(1)
    if (bytes[0] === frame.stdout) keep(socket, stdout, payload)
    else if (bytes[0] === frame.stderr) keep(socket, stderr, payload)
    else if (bytes[0] === frame.fault) fail(parseFault(payload))
    else if (bytes[0] === frame.exit) exited.resolve(parseExit(payload))
  })
  socket.on('error', (cause) => fail(new Fault('unavailable', 'the connection to the command broke', { cause })))
  socket.on('close', () => fail(signal?.aborted ? signal.reason : new Fault('unavailable', closedEarly)))
  socket.send(JSON.stringify(request))
  await started.promise
  return {
    stdin: input(socket),
    stdout,
    stderr,
    resize: (size) => post(socket, frame.resize, JSON.stringify(size)),
    kill: (name) => post(socket, frame.signal, name),
    close: () => socket.close(),
    exited: exited.promise,
  }
}

const closedEarly = 'the connection to the command was closed before the command ended'

/** A slow reader pauses the connection, and with it the command. */
function output(socket: WebSocket): Readable {
  return new Readable({ highWaterMark: 256 * 1024, read: () => socket.resume() })
}

function keep(socket: WebSocket, stream: Readable, payload: Buffer): void {
  if (!stream.readableEnded && !stream.push(payload)) socket.pause()
}

function input(socket: WebSocket): Writable {
  return new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      for (let at = 0; at < chunk.length; at += maxChunk) {
        const part = chunk.subarray(at, at + maxChunk)
        post(socket, frame.stdin, part, at + maxChunk >= chunk.length ? () => done() : undefined)
      }
      if (chunk.length === 0) done()
    },
    final: (done) => post(socket, frame.stdinEnd, '', () => done()),
  })
}

/** What cannot be sent because the command has ended is dropped, as on a closed pipe. */
function post(socket: WebSocket, kind: FrameKind, payload: Buffer | string, done?: () => void): void {
  if (socket.readyState !== socket.OPEN) done?.()
  else socket.send(Buffer.concat([Buffer.of(kind), Buffer.from(payload)]), { binary: true }, () => done?.())
}

function refusal(bytes: Buffer): Fault | undefined {
  const value = JSON.parse(bytes.toString('utf8')) as { ok?: boolean; fault?: unknown }
  return value.ok ? undefined : toFault(500, value.fault)
}

function parseExit(payload: Buffer): { code: number } {
  const value: unknown = JSON.parse(payload.toString('utf8'))
  const code = typeof value === 'number' ? value : (value as { code?: unknown }).code
  return { code: typeof code === 'number' ? code : 255 }
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
}
