import { Duplex } from 'node:stream'
import type { RawData } from 'ws'
import { Fault } from '../model/fault.ts'
import { toFault } from './read-reply.ts'
import type { Transport } from './transport.ts'

const maxChunk = 512 * 1024

/** A connection to a port of a sandbox, as bytes; see `src/api/relay-bytes.ts` for the messages. */
export async function openForward(
  transport: Transport,
  path: string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Duplex> {
  const { socket } = await transport.socket(path, { signal })
  const opened = Promise.withResolvers<void>()
  const stream = new Duplex({
    highWaterMark: 256 * 1024,
    read: () => socket.resume(),
    write(chunk: Buffer, _encoding, done) {
      if (chunk.length === 0) return done()
      for (let at = 0; at < chunk.length; at += maxChunk) {
        const isLast = at + maxChunk >= chunk.length
        socket.send(chunk.subarray(at, at + maxChunk), { binary: true }, isLast ? (error) => done(error) : undefined)
      }
    },
    final(done) {
      if (socket.readyState !== socket.OPEN) return done()
      socket.send(Buffer.alloc(0), { binary: true }, () => done())
    },
    destroy(error, done) {
      if (socket.readyState === socket.OPEN) socket.close()
      else socket.terminate()
      done(error)
    },
  })
  const stop = () => stream.destroy(signal?.reason)
  signal?.addEventListener('abort', stop, { once: true })
  socket.on('message', (data: RawData, isBinary: boolean) => {
    const bytes = Buffer.isBuffer(data) ? data : Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data)
    if (!isBinary) {
      const value = JSON.parse(bytes.toString('utf8')) as { ok?: boolean; fault?: unknown }
      if (value.ok) opened.resolve()
      else opened.reject(toFault(500, value.fault))
    } else if (bytes.length === 0) stream.push(null)
    else if (!stream.push(bytes)) socket.pause()
  })
  const broke = (cause?: unknown) => {
    const fault = new Fault('unavailable', 'the connection to the port broke', { cause })
    opened.reject(fault)
    if (!stream.readableEnded && !stream.destroyed) stream.destroy(cause === undefined ? undefined : fault)
  }
  socket.on('error', broke)
  socket.on('close', () => {
    signal?.removeEventListener('abort', stop)
    opened.reject(new Fault('unavailable', 'the connection to the port was closed'))
    if (!stream.destroyed) stream.push(null)
  })
  // A broken connection is for whoever reads or writes, and no crash of the program.
  stream.on('error', () => {})
  await opened.promise
  return stream
}
