import { Buffer } from 'node:buffer'
import { Readable, Writable } from 'node:stream'
import { Fault, type FaultCode } from '../../model/fault.ts'
import { encodeFields, Fields, frameType, type Operation, operationNumber } from './fields.ts'
import { type Frame, maxPayload } from './frames.ts'
import type { StreamEar, Wire } from './wire.ts'

const windowBytes = 262_144
const pieceBytes = 32_768
const maxRequest = 1_048_576
const codes: (FaultCode | undefined)[] = [
  undefined,
  ...(['invalid', 'denied', 'not_found', 'conflict', 'exhausted', 'unavailable', 'internal'] as const),
]

/**
 * One operation in the guest: what was asked, the first answer, the bytes both ways under credit, and how it ended.
 * A fault ends everything of it at once: promises reject, readers and writers are destroyed with it.
 */
export class GuestStream implements StreamEar {
  readonly #wire: Wire
  readonly #operation: Operation
  readonly #id: number
  readonly #replied = Promise.withResolvers<Fields>()
  readonly #finished = Promise.withResolvers<Fields>()
  readonly #readers: (Inlet | undefined)[] = []
  #writer: Outlet | undefined
  #credit = windowBytes
  #owed = 0
  #over = false
  #discarding = false

  constructor(wire: Wire, operation: Operation, fields: Parameters<typeof encodeFields>[0], signal: AbortSignal) {
    signal.throwIfAborted()
    const request = Buffer.concat([Buffer.from([operationNumber(operation)]), encodeFields(fields)])
    if (request.length > maxRequest) {
      throw new Fault('invalid', `the request to the guest has ${request.length} bytes, of at most ${maxRequest}`)
    }
    this.#wire = wire
    this.#operation = operation
    this.#id = wire.open(this)
    for (const { promise } of [this.#replied, this.#finished]) promise.catch(() => {})
    for (let rest = request; rest.length > 0; ) {
      const most = rest.subarray(0, maxPayload)
      const piece = most.subarray(0, wire.cut(most))
      rest = rest.subarray(piece.length)
      wire.send(this.#id, frameType.open, piece, rest.length > 0 ? 1 : 0)
    }
  }

  /** The first answer. Aborting before it gives the operation up. */
  async reply(signal: AbortSignal): Promise<Fields> {
    const abort = () => this.fail(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    try {
      return await this.#replied.promise
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  /** The last answer, or the end of a command. */
  get finished(): Promise<Fields> {
    return this.#finished.promise
  }

  /** What comes: 0 is the data, 1 a command's stderr. */
  reader(which: 0 | 1): Readable {
    const reader = this.#inlet(which)
    return reader.readable
  }

  writer(): Writable {
    this.#writer ??= new Outlet(
      (chunk) => this.#send(chunk),
      () => this.#tell(frameType.end),
    )
    return this.#writer.writable
  }

  /** As the agent says after an attach, whose input may still hold what was sent before. */
  setCredit(bytes: number): void {
    this.#credit = bytes
  }

  signal(number: number): void {
    this.#tell(frameType.signal, Buffer.from([number]))
  }

  resize({ columns, rows }: { columns: number; rows: number }): void {
    const payload = Buffer.alloc(4)
    payload.writeUInt16LE(columns, 0)
    payload.writeUInt16LE(rows, 2)
    this.#tell(frameType.resize, payload)
  }

  /** From now on what comes is thrown away, so that the end is heard also when nobody reads. */
  discard(): void {
    this.#discarding = true
    for (const reader of this.#readers) if (reader) this.#consumed(reader.discard())
  }

  /** Gives it up for a reason; the guest is told. */
  fail(reason: unknown): void {
    if (this.#over) return
    this.#tell(frameType.close)
    this.#end(reason)
  }

  lost(fault: Fault): void {
    this.#end(fault)
  }

  drained(): void {
    this.#writer?.go()
  }

  hear({ type, flags, payload }: Frame): void {
    if (this.#over) return
    if (type === frameType.data) {
      if (this.#discarding) this.#consumed(payload.length)
      else this.#inlet(flags & 1 ? 1 : 0).push(payload)
    } else if (type === frameType.credit && payload.length === 4) {
      this.#credit = Math.min(windowBytes, this.#credit + payload.readUInt32LE(0))
      this.#writer?.go()
    } else if (type === frameType.end) {
      // A connection goes on the other way; what only sends is over.
      if (this.#operation === 'forward') this.#inlet(0).end()
      else this.#finish(new Fields(payload))
    } else if (type === frameType.reply) {
      this.#replied.resolve(new Fields(payload))
      if (flags & 1) this.#finish(new Fields(payload))
    } else if (type === frameType.exit) {
      this.#tell(frameType.close)
      this.#finish(new Fields(payload))
    } else if (type === frameType.error) {
      const said = payload.subarray(1).toString().slice(0, 2000)
      this.#end(
        new Fault(codes[payload[0] ?? 0] ?? 'internal', said || 'the guest agent says no more than that it failed'),
      )
    }
  }

  #finish(fields: Fields): void {
    this.#over = true
    this.#wire.forget(this.#id)
    this.#finished.resolve(fields)
    for (const which of [0, 1] as const) this.#inlet(which).end()
    this.#writer?.stop()
  }

  #end(reason: unknown): void {
    if (this.#over) return
    this.#over = true
    this.#wire.forget(this.#id)
    const error = reason instanceof Error ? reason : new Fault('unavailable', String(reason))
    this.#replied.reject(error)
    this.#finished.reject(error)
    for (const reader of this.#readers) reader?.readable.destroy(error)
    this.#writer?.fail(error)
  }

  #inlet(which: 0 | 1): Inlet {
    const known = this.#readers[which]
    if (known) return known
    const made = new Inlet((bytes) => this.#consumed(bytes))
    this.#readers[which] = made
    return made
  }

  #consumed(bytes: number): void {
    this.#owed += bytes
    if (this.#owed < windowBytes / 4 || this.#over) return
    const payload = Buffer.alloc(4)
    payload.writeUInt32LE(this.#owed)
    this.#owed = 0
    this.#tell(frameType.credit, payload)
  }

  #tell(type: (typeof frameType)[keyof typeof frameType], payload?: Buffer): void {
    if (!this.#over) this.#wire.send(this.#id, type, payload)
  }

  /** Sends as much as credit and socket allow; gives what is left. */
  #send(chunk: Buffer): Buffer {
    let rest = chunk
    while (rest.length > 0 && this.#credit > 0 && !this.#wire.full && !this.#over) {
      const most = rest.subarray(0, Math.min(pieceBytes, this.#credit))
      const piece = most.subarray(0, this.#wire.cut(most))
      this.#wire.send(this.#id, frameType.data, piece)
      this.#credit -= piece.length
      rest = rest.subarray(piece.length)
    }
    return rest
  }
}

/** What came waits here until the reader wants it; only then the guest may send more. */
class Inlet {
  readonly readable: Readable
  readonly #consumed: (bytes: number) => void
  #waiting: Buffer[] = []
  #wanted = false
  #ended = false

  constructor(consumed: (bytes: number) => void) {
    this.#consumed = consumed
    this.readable = new Readable({
      highWaterMark: pieceBytes,
      read: () => {
        this.#wanted = true
        this.#flow()
      },
      destroy: (error, done) => {
        this.#consumed(this.discard())
        done(error)
      },
    })
    // The channel may be lost when nobody listens; that is told by other ways too and must not end the process.
    this.readable.on('error', () => {})
  }

  push(bytes: Buffer): void {
    if (this.readable.destroyed) {
      this.#consumed(bytes.length)
    } else {
      this.#waiting.push(bytes)
      this.#flow()
    }
  }

  end(): void {
    this.#ended = true
    if (!this.readable.destroyed) this.#flow()
  }

  /** How many bytes nobody will read. */
  discard(): number {
    const bytes = this.#waiting.reduce((sum, one) => sum + one.length, 0)
    this.#waiting = []
    return bytes
  }

  #flow(): void {
    while (this.#wanted && this.#waiting.length > 0) {
      const bytes = this.#waiting.shift() ?? Buffer.alloc(0)
      this.#wanted = this.readable.push(bytes)
      this.#consumed(bytes.length)
    }
    if (this.#ended && this.#waiting.length === 0) this.readable.push(null)
  }
}

/** What is written waits here for credit and socket; the writer is called back when all of it was sent. */
class Outlet {
  readonly writable: Writable
  readonly #send: (chunk: Buffer) => Buffer
  #rest: Buffer = Buffer.alloc(0)
  #done: ((error?: Error | null) => void) | undefined
  #stopped = false

  constructor(send: (chunk: Buffer) => Buffer, end: () => void) {
    this.#send = send
    this.writable = new Writable({
      highWaterMark: pieceBytes * 2,
      write: (chunk: Buffer, _encoding, done) => {
        this.#rest = chunk
        this.#done = done
        this.go()
      },
      final: (done) => {
        end()
        done()
      },
    })
    this.writable.on('error', () => {})
  }

  go(): void {
    const done = this.#done
    if (!done) return
    this.#rest = this.#stopped ? Buffer.alloc(0) : this.#send(this.#rest)
    if (this.#rest.length > 0) return
    this.#done = undefined
    done()
  }

  /** The other side takes no more: what is written is swallowed, as by a program that has ended. */
  stop(): void {
    this.#stopped = true
    this.go()
  }

  fail(error: Error): void {
    this.#stopped = true
    this.#done = undefined
    this.writable.destroy(error)
  }
}
