import { writevSync } from 'node:fs'
import type { Socket } from 'node:net'
import { loadLibc } from '../memory/libc.ts'
import type { BufferPool } from './buffer-pool.ts'

/** Replies that were made in one turn are sent together, up to so much. */
const maximumTogether = 64 * 1024

/**
 * The way out of a connection: straight to the system as long as that takes everything at once, and through the stream,
 * which waits, from where it does not. A small read through the stream costs half as much processor time again.
 */
export class Outlet {
  readonly #socket: Socket
  readonly #pool: BufferPool
  #together: Buffer[] = []
  #togetherBytes = 0

  constructor(socket: Socket, pool: BufferPool) {
    this.#socket = socket
    this.#pool = pool
  }

  /** Bytes that the client does not take. */
  get waitingBytes(): number {
    return this.#socket.writableLength
  }

  /** Goes out with the next `flush` at the latest; `bytes` are the pool's from then on. */
  send(bytes: Buffer): void {
    this.#together.push(bytes)
    this.#togetherBytes += bytes.length
    if (this.#togetherBytes >= maximumTogether) this.flush()
  }

  flush(): void {
    if (this.#togetherBytes === 0) return
    const pieces = this.#together
    let sent = this.#sendNow(pieces)
    this.#together = []
    this.#togetherBytes = 0
    for (const piece of pieces) {
      const rest = piece.subarray(Math.min(sent, piece.length))
      sent -= piece.length - rest.length
      if (rest.length === 0 || this.#socket.destroyed) this.#pool.give(piece)
      else this.#socket.write(rest, () => this.#pool.give(piece))
    }
  }

  /** Sends bytes of a file without copying them; gives how many the system took, which is none while something waits. */
  sendFile(fd: number, offset: number, length: number): number {
    this.flush()
    const socket = this.#freeDescriptor()
    return socket === undefined ? 0 : Math.max(0, loadLibc()?.sendFile(socket, fd, offset, length) ?? 0)
  }

  #sendNow(pieces: Buffer[]): number {
    const fd = this.#freeDescriptor()
    if (fd === undefined) return 0
    try {
      return writevSync(fd, pieces)
    } catch {
      return 0 // the stream waits, or says why not
    }
  }

  /** The socket, when nothing waits before what is sent now. */
  #freeDescriptor(): number | undefined {
    if (this.#socket.destroyed || this.#socket.writableLength > 0) return undefined
    const { fd } = (this.#socket as unknown as { _handle?: { fd?: number } })._handle ?? {}
    return fd !== undefined && fd >= 0 ? fd : undefined
  }
}
