import { Buffer } from 'node:buffer'
import type { Duplex } from 'node:stream'
import type { Clock } from '../../kit/clock.ts'
import type { Random } from '../../kit/random.ts'
import { Fault, sentence } from '../../model/fault.ts'
import { Fields, type FrameType, frameType } from './fields.ts'
import { encodeFrame, type Frame, FrameDecoder } from './frames.ts'

/** What the connection tells whoever opened a stream. */
export interface StreamEar {
  hear(frame: Frame): void
  /** The connection is gone; nothing else will be heard. */
  lost(fault: Fault): void
  /** The socket takes more again. */
  drained(): void
}

export interface WireOptions {
  socket: Duplex
  token: string | undefined
  opening?: string | undefined
  random: Random
  clock: Clock
  signal: AbortSignal
}

/** Known to everybody; good only until a connection is opened with a secret one. */
const firstToken = Buffer.from('tutti.channel.1\n').toString('hex')
const resendMs = 2000

/** One connection to a guest agent: its beginning in band, frames to and from streams, and its end. */
export class Wire {
  readonly #socket: Duplex
  readonly #decoder = new FrameDecoder()
  readonly #ears = new Map<number, StreamEar>()
  readonly #hello = Promise.withResolvers<Fields>()
  readonly #closed = Promise.withResolvers<void>()
  #fault: Fault | undefined
  #quiet = false
  #tokens: Buffer[] = []
  #next = 0

  static async open({ socket, token = firstToken, opening = '', random, clock, signal }: WireOptions): Promise<Wire> {
    const wire = new Wire(socket)
    if (!/^[0-9a-f]{32}$/.test(token)) throw new Fault('invalid', 'the token of a guest channel has 32 hex digits')
    const marker = Buffer.from(token, 'hex')
    wire.#tokens = [marker]
    const heard = new AbortController()
    const aborted = () => wire.#lose(new Fault('unavailable', 'connecting to the guest agent was given up'))
    signal.addEventListener('abort', aborted, { once: true })
    try {
      // Said again while nobody answers: a machine may be reset after its port took the first one in.
      // A VMM's answer to the opening is thrown away as whatever else comes before the nonce.
      if (opening !== '') socket.write(opening)
      const begin = async () => {
        while (!wire.#fault && !heard.signal.aborted) {
          const nonce = Buffer.from(random.bytes(16))
          wire.#decoder.expect(nonce)
          socket.write(Buffer.concat([marker, nonce]))
          await clock.sleep(resendMs, { signal: heard.signal })
        }
      }
      if (signal.aborted) aborted()
      begin().catch(() => {})
      const hello = await wire.#hello.promise
      wire.#next = Math.max(1, hello.number('stream'))
      wire.#tokens.push(hello.bytes('token'))
      wire.agentVersion = hello.text('version').slice(0, 100)
      wire.nextToken = hello.bytes('token').toString('hex')
      return wire
    } finally {
      heard.abort()
      signal.removeEventListener('abort', aborted)
    }
  }

  agentVersion = ''
  nextToken = ''

  constructor(socket: Duplex) {
    this.#socket = socket
    this.#hello.promise.catch(() => {})
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('drain', () => {
      for (const ear of [...this.#ears.values()]) ear.drained()
    })
    socket.on('error', (error) => this.#lose(lost(error)))
    socket.on('close', () => this.#lose(lost()))
    socket.on('end', () => this.#lose(lost()))
    if (socket.destroyed) this.#lose(lost())
  }

  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /** Whether the socket wants no more data for now; `drained` tells when it does. */
  get full(): boolean {
    return this.#quiet || this.#socket.writableNeedDrain
  }

  /** A stream of one's own. Throws the Fault that ended the connection. */
  open(ear: StreamEar): number {
    if (this.#fault) throw this.#fault
    if (this.#quiet) throw new Fault('unavailable', 'the channel to the guest is quiet for a snapshot; connect again')
    const id = this.#next++
    this.#ears.set(id, ear)
    return id
  }

  forget(id: number): void {
    this.#ears.delete(id)
  }

  /** Where a payload must be cut, so that no token appears in the bytes on the wire: its length when it need not. */
  cut(payload: Buffer): number {
    let at = payload.length
    for (const token of this.#tokens) {
      const found = token.length === 16 ? payload.indexOf(token) : -1
      if (found >= 0) at = Math.min(at, found + 8)
    }
    return at
  }

  send(stream: number, type: FrameType, payload: Buffer = Buffer.alloc(0), flags = 0): void {
    if (this.#fault || this.#quiet) return
    const pieces = encodeFrame({ stream, type, flags, payload })
    if (pieces.length > 1) this.#socket.cork()
    for (const piece of pieces) this.#socket.write(piece)
    if (pieces.length > 1) this.#socket.uncork()
  }

  /**
   * Nothing is sent any more. A byte that reached a machine which stands still would be in its memory and not in the state of its
   * devices, and the snapshot could not be loaded.
   */
  hush(): void {
    this.#quiet = true
  }

  close(): void {
    this.#lose(new Fault('unavailable', 'the channel to the guest agent was closed'))
  }

  #take(chunk: Buffer): void {
    if (this.#fault) return
    try {
      for (const frame of this.#decoder.push(chunk)) {
        if (frame.type === frameType.hello && frame.stream === 0) this.#hello.resolve(new Fields(frame.payload))
        else this.#ears.get(frame.stream)?.hear(frame)
      }
    } catch (error) {
      this.#lose(new Fault('unavailable', `the guest agent cannot be understood: ${sentence(error)}`))
    }
  }

  #lose(fault: Fault): void {
    if (this.#fault) return
    this.#fault = fault
    this.#socket.destroy()
    this.#hello.reject(fault)
    const ears = [...this.#ears.values()]
    this.#ears.clear()
    for (const ear of ears) ear.lost(fault)
    this.#closed.resolve()
  }
}

function lost(error?: Error): Fault {
  const why = error ? `: ${sentence(error)}` : ''
  return new Fault('unavailable', `the channel to the guest agent was lost${why}`, { cause: error })
}
