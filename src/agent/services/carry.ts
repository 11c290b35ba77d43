import { once } from 'node:events'
import type { Duplex, Readable } from 'node:stream'
import type { GuestExecution } from '../../guest/channel.ts'
import type { Execution } from '../../guest/guest.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { encodeFrame, FrameDecoder, type FrameKind, frame, maxFrameBytes } from '../../wire/frames.ts'

/**
 * Starts a command and carries its input and output as frames on the stream, until it has ended. Neither side runs ahead
 * of the other: a slow reader slows the command down. Giving the stream up aborts the command's signal. Rejects as
 * `start` does, before the stream is touched.
 */
export async function carryExecution(
  stream: Duplex,
  start: (options: { signal: AbortSignal }) => Promise<Execution | GuestExecution>,
  { signal }: { signal: AbortSignal },
): Promise<void> {
  const given = new AbortController()
  const execution = await start({ signal: AbortSignal.any([signal, given.signal]) })
  const giveUp = () => {
    if (!stream.writableFinished) given.abort(new Fault('unavailable', 'the stream was given up'))
  }
  stream.once('close', giveUp)
  stream.on('error', () => {})
  try {
    if ('pid' in execution) stream.write(encodeFrame(frame.started, JSON.stringify(startedAs(execution))))
    feed(stream, execution)
    const outputs = [drain(execution.stdout, frame.stdout, stream)]
    if (execution.stderr) outputs.push(drain(execution.stderr, frame.stderr, stream))
    // When the way in is lost they fail as well, and that is said once.
    for (const output of outputs) output.catch(() => {})
    const { code } = await execution.exited
    await Promise.all(outputs)
    if (!stream.destroyed) stream.end(encodeFrame(frame.exit, JSON.stringify({ code })))
  } catch (error) {
    const { code, message } = error instanceof Fault ? error : new Fault('unavailable', sentence(error))
    if (!stream.destroyed) stream.end(encodeFrame(frame.fault, JSON.stringify({ code, message })))
  } finally {
    stream.off('close', giveUp)
  }
}

function startedAs({ pid, from, stderr }: GuestExecution): { pid: number; from: number; terminal: boolean } {
  return { pid, from, terminal: stderr === undefined }
}

/** What comes in: input, the size of the terminal, signals. What cannot be understood ends the stream. */
function feed(stream: Duplex, execution: Execution): void {
  const decoder = new FrameDecoder()
  const { stdin } = execution
  // A command may end without reading its input.
  stdin.on('error', () => {})
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const { kind, payload } of decoder.push(chunk)) {
        if (kind === frame.stdin) {
          if (!stdin.writable || stdin.write(payload)) continue
          stream.pause()
          stdin.once('drain', () => stream.resume())
          stdin.once('close', () => stream.resume())
        } else if (kind === frame.stdinEnd) stdin.end()
        else if (kind === frame.resize) execution.resize(sizeOf(payload))
        else if (kind === frame.signal) execution.kill(signalOf(payload))
        else throw new Fault('invalid', `a frame of kind ${kind} makes no sense here`)
      }
    } catch (error) {
      stream.destroy(new Fault('invalid', `the exec stream cannot be understood: ${sentence(error)}`))
    }
  })
  stream.once('end', () => stdin.end())
}

async function drain(output: Readable, kind: FrameKind, stream: Duplex): Promise<void> {
  for await (const chunk of output as AsyncIterable<Buffer>) {
    for (let at = 0; at < chunk.length; at += maxFrameBytes) {
      if (stream.destroyed) return
      const piece = encodeFrame(kind, chunk.subarray(at, at + maxFrameBytes))
      if (!stream.write(piece)) await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => {})
    }
  }
}

function sizeOf(payload: Buffer): { columns: number; rows: number } {
  const { columns, rows } = JSON.parse(payload.toString('utf8')) as { columns: unknown; rows: unknown }
  const within = (value: unknown): value is number =>
    Number.isInteger(value) && Number(value) >= 1 && Number(value) <= 10_000
  if (!within(columns) || !within(rows)) throw new Fault('invalid', 'a terminal has 1 to 10000 columns and rows')
  return { columns, rows }
}

function signalOf(payload: Buffer): string {
  const name = payload.toString('utf8')
  if (!/^SIG[A-Z0-9]{2,12}$/.test(name)) throw new Fault('invalid', 'a signal is named like SIGINT')
  return name
}
