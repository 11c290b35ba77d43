import { Readable, Writable } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import type { z } from 'zod'
import type { ExecRequest } from '../contract/allocation.ts'
import type { SandboxAttachRequest, SandboxExecRequest } from '../contract/sandbox.ts'
import { Fault } from '../model/fault.ts'
import { type FrameKind, frame } from '../wire/frames.ts'
import type { KeptSockets } from './kept-sockets.ts'
import { parseFault } from './logs.ts'
import { toFault } from './read-reply.ts'
import type { TransportSocket } from './transport.ts'

export type ExecOptions = z.input<typeof ExecRequest>
export type SandboxExecOptions = z.input<typeof SandboxExecRequest>
export type SandboxAttachOptions = z.input<typeof SandboxAttachRequest>
type Request = ExecOptions | SandboxExecOptions | SandboxAttachOptions

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
  /** How to join it again, when it runs in a sandbox; rejects when it ended without having said so. */
  readonly started: Promise<Started>
}

export interface Started {
  /** Its process id in the sandbox. */
  pid: number
  /** Where in all that it ever wrote its output begins here. */
  from: number
  terminal: boolean
}

/** A frame of standard input is at most this long. */
const maxChunk = 64 * 1024

export async function openExecution(
  sockets: KeptSockets,
  path: string,
  request: Request,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Execution> {
  for (;;) {
    const taken = await sockets.take(path, { signal })
    const { isOutdated, execution } = await begin(taken, request, { signal, done: () => sockets.giveBack(path, taken) })
    if (execution) return execution
    if (taken.isFresh || !isOutdated) throw new Fault('unavailable', closedEarly)
  }
}

interface Begun {
  execution?: Execution
  /** The server had closed the socket before it could have read the request. */
  isOutdated?: boolean
}

async function begin(
  { socket }: TransportSocket,
  request: Request,
  { signal, done }: { signal: AbortSignal | undefined; done: () => void },
): Promise<Begun> {
  const exited = Promise.withResolvers<{ code: number }>()
  // Somebody who only reads the output need not look at the exit.
  exited.promise.catch(() => {})
  const begun = Promise.withResolvers<Begun>()
  const started = Promise.withResolvers<Started>()
  started.promise.catch(() => {})
  const line: Line = { socket, isOver: false }
  const stdout = output(line)
  const stderr = output(line)
  const finish = () => {
    line.isOver = true
    signal?.removeEventListener('abort', onAbort)
    socket.off('message', onMessage).off('error', onError).off('close', onClose)
    stdout.push(null)
    stderr.push(null)
    started.reject(new Fault('unavailable', 'the node did not say how the command can be joined again'))
  }
  const fail = (error: unknown) => {
    if (line.isOver) return
    started.reject(error)
    finish()
    // What comes of closing it is nobody's business any more.
    socket.on('error', () => {})
    socket.close()
    begun.reject(error)
    exited.reject(error)
  }
  const onAbort = () => socket.terminate()
  const onMessage = (data: RawData, isBinary: boolean) => {
    const bytes = toBuffer(data)
    if (!isBinary) {
      const fault = refusal(bytes)
      return fault ? fail(fault) : begun.resolve({ execution })
    }
    const payload = bytes.subarray(1)
    if (bytes[0] === frame.stdout) keep(socket, stdout, payload)
    else if (bytes[0] === frame.stderr) keep(socket, stderr, payload)
    else if (bytes[0] === frame.started) started.resolve(JSON.parse(payload.toString('utf8')) as Started)
    else if (bytes[0] === frame.fault) fail(parseFault(payload))
    else if (bytes[0] === frame.exit) {
      finish()
      done()
      exited.resolve(parseExit(payload))
    }
  }
  const onError = (cause: Error) => fail(new Fault('unavailable', 'the connection to the command broke', { cause }))
  const onClose = (code: number) => {
    // In good order and without an answer: it had waited for a request for too long.
    if (code === normalClosure) begun.resolve({ isOutdated: true })
    fail(signal?.aborted ? signal.reason : new Fault('unavailable', closedEarly))
  }
  const execution: Execution = {
    stdin: input(line),
    stdout,
    stderr,
    resize: (size) => post(line, frame.resize, JSON.stringify(size)),
    kill: (name) => post(line, frame.signal, name),
    close: () => void (line.isOver || socket.close()),
    exited: exited.promise,
    started: started.promise,
  }
  signal?.addEventListener('abort', onAbort, { once: true })
  socket.on('message', onMessage).on('error', onError).on('close', onClose)
  socket.send(JSON.stringify({ ...request, keep: true }))
  return begun.promise
}

/** What an execution may still do to a socket that goes on to others: once it is over, nothing. */
interface Line {
  readonly socket: WebSocket
  isOver: boolean
}

/** RFC 6455, 7.4.1. */
const normalClosure = 1000
const closedEarly = 'the connection to the command was closed before the command ended'

/** A slow reader pauses the connection, and with it the command. */
function output(line: Line): Readable {
  return new Readable({ highWaterMark: 256 * 1024, read: () => void (line.isOver || line.socket.resume()) })
}

function keep(socket: WebSocket, stream: Readable, payload: Buffer): void {
  if (!stream.readableEnded && !stream.push(payload)) socket.pause()
}

function input(line: Line): Writable {
  return new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      for (let at = 0; at < chunk.length; at += maxChunk) {
        const part = chunk.subarray(at, at + maxChunk)
        post(line, frame.stdin, part, at + maxChunk >= chunk.length ? () => done() : undefined)
      }
      if (chunk.length === 0) done()
    },
    final: (done) => post(line, frame.stdinEnd, '', () => done()),
  })
}

/** What cannot be sent because the command has ended is dropped, as on a closed pipe. */
function post({ socket, isOver }: Line, kind: FrameKind, payload: Buffer | string, done?: () => void): void {
  if (isOver || socket.readyState !== socket.OPEN) done?.()
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
