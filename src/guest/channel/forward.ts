import { Duplex } from 'node:stream'
import { GuestStream } from './stream.ts'
import type { Wire } from './wire.ts'

/** A TCP connection to a port on the guest's loopback, as a stream both ways with half-closing. */
export async function forwardPort(wire: Wire, port: number, { signal }: { signal: AbortSignal }): Promise<Duplex> {
  const stream = new GuestStream(wire, 'forward', { port }, signal)
  await stream.reply(signal)
  const [reader, writer] = [stream.reader(0), stream.writer()]
  const abort = () => stream.fail(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  const duplex = new Duplex({
    read: () => void reader.resume(),
    write: (chunk, _encoding, done) => void writer.write(chunk, done),
    final: (done) => void writer.end(done),
    destroy: (error, done) => {
      signal.removeEventListener('abort', abort)
      stream.fail(error ?? new Error('the connection was closed'))
      done(error)
    },
  })
  reader.on('data', (chunk) => {
    if (!duplex.push(chunk)) reader.pause()
  })
  reader.on('end', () => duplex.push(null))
  reader.on('error', (error) => duplex.destroy(error))
  writer.on('error', (error) => duplex.destroy(error))
  duplex.on('error', () => {})
  return duplex
}
