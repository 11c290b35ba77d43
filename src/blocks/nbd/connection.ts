import type { Socket } from 'node:net'
import { BufferPool } from './buffer-pool.ts'
import { ByteQueue } from './bytes.ts'
import type { NbdExport } from './export.ts'
import { Handshake } from './handshake.ts'
import { Outlet } from './outlet.ts'
import {
  commands,
  decodeRequest,
  encodeGreeting,
  encodeReply,
  errors,
  fua,
  maximumPayload,
  type Request,
  replyBytes,
  requestBytes,
} from './protocol.ts'

/** Reads that wait to be sent while the client does not read are held back beyond this. */
const maximumUnsent = 64 * 1024 * 1024

const pool = new BufferPool()
/** Of a read as long as this, only the first part is copied; for less, one call is cheaper than a copy. */
const minimumUncopied = 64 * 1024
/** What the client has to take in while the system finds the rest. */
const copiedFirst = 32 * 1024
/** Those with files that could not be read after an answer had begun; their reads are whole before anything is said. */
const doubtful = new WeakSet<NbdExport>()

/** Serves one connection until either side ends it. */
export function serveConnection(socket: Socket, target: NbdExport): NbdConnection {
  return new NbdConnection(socket, target)
}

export class NbdConnection {
  readonly #socket: Socket
  readonly #target: NbdExport
  readonly #outlet: Outlet
  readonly #bytes = new ByteQueue()
  readonly #handshake: Handshake
  #request: Request | undefined
  /** Requests that have been taken and not been answered. */
  #pending = 0
  #idle: (() => void)[] = []

  constructor(socket: Socket, target: NbdExport) {
    this.#socket = socket
    this.#target = target
    this.#outlet = new Outlet(socket, pool)
    this.#handshake = new Handshake(target, (bytes) => socket.write(bytes))
    socket.on('data', (piece: Buffer) => {
      this.#bytes.push(piece)
      this.#advance()
    })
    socket.on('drain', () => {
      socket.resume()
      this.#advance()
    })
    socket.on('error', () => socket.destroy()) // the client went away; whatever it was promised is on disk
    socket.write(encodeGreeting())
  }

  /** Resolves when no request is under way. */
  async quiet(): Promise<void> {
    while (this.#pending > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  end(): void {
    this.#socket.destroy()
  }

  #advance(): void {
    const handshake = this.#handshake.advance(this.#bytes)
    if (handshake === 'ended') this.#socket.end()
    if (handshake !== 'done') return
    while (!this.#socket.destroyed && this.#takeRequest()) {}
    this.#outlet.flush()
  }

  #takeRequest(): boolean {
    if (this.#outlet.waitingBytes > maximumUnsent) {
      this.#socket.pause() // goes on with `drain`
      return false
    }
    if (this.#request === undefined) {
      if (this.#bytes.length < requestBytes) return false
      this.#request = decodeRequest(this.#bytes.take(requestBytes))
      if (this.#request === undefined || isTooLong(this.#request)) {
        this.#socket.destroy()
        return false
      }
    }
    const request = this.#request
    if (request.command === commands.write && this.#bytes.length < request.length) return false
    this.#request = undefined
    if (request.command === commands.disconnect) {
      this.#socket.end()
      return false
    }
    this.#carryOut(request, request.command === commands.write ? this.#bytes.takePieces(request.length) : [])
    return true
  }

  #carryOut(request: Request, pieces: Buffer[]): void {
    const refusal = this.#refuse(request)
    if (refusal !== undefined) {
      this.#reply(request, refusal)
      return
    }
    try {
      const waiting =
        request.command === commands.flush
          ? undefined
          : this.#target.prepare(request.offset, request.length, request.command === commands.read ? 'read' : 'write')
      if (waiting !== undefined)
        this.#later(
          request,
          waiting.then(() => this.#apply(request, pieces)),
        )
      else {
        const applied = this.#apply(request, pieces)
        if (applied !== undefined) this.#later(request, applied)
      }
    } catch (error) {
      this.#reply(request, errorNumber(error))
    }
  }

  #later(request: Request, work: Promise<void>): void {
    this.#pending += 1
    work
      .catch((error: unknown) => this.#reply(request, errorNumber(error)))
      .finally(() => {
        this.#outlet.flush()
        this.#pending -= 1
        if (this.#pending === 0) for (const resolve of this.#idle.splice(0)) resolve()
      })
  }

  /** Does it and answers; a promise where the answer has to wait. */
  #apply(request: Request, pieces: Buffer[]): Promise<void> | undefined {
    const { command, offset, length } = request
    if (command === commands.read) {
      this.#sendRead(request)
      return undefined
    }
    if (command === commands.write) this.#target.write(offset, pieces)
    else if (command !== commands.flush) this.#target.zero(offset, length)
    if (command === commands.flush || (request.flags & fua) !== 0)
      return this.#target.flush().then(() => this.#reply(request, 0))
    this.#reply(request, 0)
    return undefined
  }

  /**
   * Header and payload leave as one buffer, into which the file is read. Most of a long one goes from the page cache to the
   * socket as it is: copying it twice was more than half of what it cost.
   */
  #sendRead({ handle, offset, length }: Request): void {
    const isLong = length >= minimumUncopied && !doubtful.has(this.#target)
    const place = isLong ? this.#target.placeOf?.(offset, length) : undefined
    const buffer = pool.take(replyBytes + (place === undefined ? length : copiedFirst))
    try {
      this.#target.read(offset, buffer.subarray(replyBytes))
    } catch (error) {
      pool.give(buffer)
      throw error
    }
    this.#outlet.send(encodeReply(buffer, 0, handle))
    if (place === undefined) return
    const sent = copiedFirst + this.#outlet.sendFile(place.fd, place.at + copiedFirst, length - copiedFirst)
    if (sent < length) this.#sendRest(offset + sent, length - sent)
  }

  /** The answer has begun, so a file that cannot be read ends the connection; the client comes back and asks again. */
  #sendRest(offset: number, length: number): void {
    const buffer = pool.take(length)
    try {
      this.#target.read(offset, buffer)
      this.#outlet.send(buffer)
    } catch {
      doubtful.add(this.#target)
      pool.give(buffer)
      this.end()
    }
  }

  #reply({ handle }: Request, error: number): void {
    this.#outlet.send(encodeReply(pool.take(replyBytes), error, handle))
  }

  #refuse({ command, offset, length }: Request): number | undefined {
    const changes = command === commands.write || command === commands.trim || command === commands.writeZeroes
    if (!changes && command !== commands.read && command !== commands.flush) return errors.invalid
    if (changes && this.#target.readOnly) return errors.permission
    if (command === commands.flush) return undefined
    if (offset + length <= this.#target.size) return undefined
    return command === commands.write || command === commands.writeZeroes ? errors.noSpace : errors.invalid
  }
}

/** The length of other requests is only a number; they may be of any size. */
function isTooLong({ command, length }: Request): boolean {
  return length > maximumPayload && (command === commands.read || command === commands.write)
}

function errorNumber(error: unknown): number {
  const code = (error as { code?: unknown } | null)?.code
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG' || code === 'exhausted') return errors.noSpace
  if (code === 'ENOMEM') return errors.memory
  if (code === 'EINVAL') return errors.invalid
  if (code === 'EPERM') return errors.permission
  return errors.io
}
