import type { Duplex } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import { Fault, sentence } from '../model/fault.ts'
import { encodeFrame, FrameDecoder, type FrameKind, frame } from '../wire/frames.ts'

/** Bytes that may wait in a socket before the other side is asked to pause. */
const highWaterBytes = 4 * 2 ** 20

/**
 * Joins a browser's or CLI's WebSocket to an exec stream of an agent. Frames pass unchanged but for their envelope:
 * a WebSocket message is a kind byte and the payload, the stream has the length as well. A slow side slows the other.
 */
export async function relayExec(socket: WebSocket, stream: Duplex): Promise<void> {
  const ended = Promise.withResolvers<void>()
  const fail = (error: unknown) => {
    if (socket.readyState === socket.OPEN)
      socket.send(message(frame.fault, JSON.stringify({ code: Fault.from(error).code, message: sentence(error) })))
    ended.resolve()
  }
  socket.on('message', (data: RawData, isBinary: boolean) => {
    const bytes = isBinary ? toBuffer(data) : undefined
    if (!bytes || bytes.length === 0)
      return fail(new Fault('invalid', 'only binary frames are expected after the request'))
    if (!stream.write(encodeFrame(bytes[0] as FrameKind, bytes.subarray(1)))) {
      socket.pause()
      stream.once('drain', () => socket.resume())
    }
  })
  socket.once('close', () => {
    stream.destroy()
    ended.resolve()
  })
  const decoder = new FrameDecoder()
  stream.on('data', (chunk: Buffer) => {
    try {
      for (const { kind, payload } of decoder.push(chunk)) {
        socket.send(message(kind, payload), { binary: true }, () => {
          if (stream.isPaused() && socket.bufferedAmount < highWaterBytes / 2) stream.resume()
        })
      }
    } catch (error) {
      fail(error)
    }
    if (socket.bufferedAmount > highWaterBytes) stream.pause()
  })
  stream.once('error', fail)
  stream.once('end', () => ended.resolve())
  await ended.promise
  stream.destroy()
  if (socket.readyState === socket.OPEN) socket.close(1000)
}

function message(kind: FrameKind, payload: Buffer | string): Buffer {
  const body = typeof payload === 'string' ? Buffer.from(payload) : payload
  const out = Buffer.allocUnsafe(1 + body.length)
  out[0] = kind
  body.copy(out, 1)
  return out
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
}

/** The first message of an exec WebSocket: the request, as JSON text. */
export async function firstMessage(socket: WebSocket, { signal }: { signal: AbortSignal }): Promise<unknown> {
  const got = Promise.withResolvers<unknown>()
  socket.once('message', (data: RawData, isBinary: boolean) => {
    try {
      if (isBinary) throw new Error('it is binary')
      got.resolve(JSON.parse(toBuffer(data).toString('utf8')))
    } catch (cause) {
      got.reject(new Fault('invalid', 'the first message must be the request as JSON text', { cause }))
    }
    // Frames that follow at once must not be lost while the agent is being asked.
    socket.pause()
  })
  signal.addEventListener('abort', () => got.reject(signal.reason), { once: true })
  return got.promise
}
