import { Duplex } from 'node:stream'
import type { Fault } from '../model/fault.ts'
import { destroyWhenDone } from './done.ts'
import type { Lane } from './memory-lane.ts'

/** A Duplex over two lanes, with the same promises as `byteStream` over HTTP/2. */
export function memoryStream({ outgoing, incoming, lost, onUse = () => {} }: MemoryStreamOptions): Duplex {
  let readEnded = false
  let reading = false
  let used = false
  const use = () => {
    if (used) return
    used = true
    onUse()
  }
  const pull = async (): Promise<void> => {
    if (reading) return
    reading = true
    try {
      const bytes = await incoming.take()
      readEnded = bytes === undefined
      reading = false
      if (!stream.destroyed) stream.push(bytes ?? null)
    } catch (error) {
      stream.destroy(error as Error)
    }
  }
  const stream = new Duplex({
    // See byteStream: leaving a loop over the input must not end the output.
    autoDestroy: false,
    read() {
      use()
      void pull()
    },
    write(chunk: Buffer, _encoding, done) {
      use()
      outgoing.send(Buffer.from(chunk)).then(
        () => done(),
        (error: Error) => {
          stream.destroy(error)
          done(error)
        },
      )
    },
    final(done) {
      use()
      outgoing.end()
      done()
    },
    destroy(error, done) {
      if (error !== null || !readEnded || !stream.writableFinished) {
        outgoing.reset('from', lost())
        incoming.reset('to', lost())
      }
      done(error)
    },
  })
  stream.on('error', () => {})
  destroyWhenDone(stream)
  incoming.onLost(() => {
    if (!readEnded) stream.destroy(lost())
  })
  return stream
}

interface MemoryStreamOptions {
  outgoing: Lane
  incoming: Lane
  lost: () => Fault
  onUse?: () => void
}
