import type { Duplex } from 'node:stream'
import type { RawData, WebSocket } from 'ws'
import { Fault } from '../model/fault.ts'

/** Bytes that may wait in a socket before the other side is asked to pause. */
const highWaterBytes = 4 * 2 ** 20
const pieceBytes = 512 * 1024

/**
 * Joins a WebSocket to a byte stream: each binary message is bytes, an empty one says that no more come from there. A
 * slow side slows the other.
 */
export async function relayBytes(socket: WebSocket, stream: Duplex): Promise<void> {
  const over = Promise.withResolvers<void>()
  let ends = 0
  const end = () => {
    ends += 1
    if (ends === 2) over.resolve()
  }
  socket.on('message', (data: RawData, isBinary: boolean) => {
    if (!isBinary) return over.reject(new Fault('invalid', 'only binary messages are expected here'))
    const bytes = toBuffer(data)
    if (bytes.length === 0) {
      stream.end()
      end()
    } else if (!stream.writableEnded && !stream.write(bytes)) {
      socket.pause()
      stream.once('drain', () => socket.resume())
    }
  })
  socket.once('close', () => over.resolve())
  stream.on('data', (chunk: Buffer) => {
    for (let at = 0; at < chunk.length; at += pieceBytes) {
      socket.send(chunk.subarray(at, at + pieceBytes), { binary: true }, () => {
        if (stream.isPaused() && socket.bufferedAmount < highWaterBytes / 2) stream.resume()
      })
    }
    if (socket.bufferedAmount > highWaterBytes) stream.pause()
  })
  stream.once('end', () => {
    if (socket.readyState === socket.OPEN) socket.send(Buffer.alloc(0), { binary: true })
    end()
  })
  stream.once('error', () => over.resolve())
  try {
    await over.promise
  } finally {
    stream.destroy()
    if (socket.readyState === socket.OPEN) socket.close(1000)
  }
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
}
