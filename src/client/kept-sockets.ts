import type { Transport, TransportSocket } from './transport.ts'

/** Sockets without a command, in all. */
const maxKept = 8

/**
 * WebSockets whose command has ended, kept for the next one to the same path: opening one takes longer than a short
 * command. The server closes those that stay unused; until then they do not keep the process alive.
 */
export class KeptSockets implements Disposable {
  readonly #transport: Transport
  readonly #kept: Kept[] = []
  #disposed = false

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** One that is open; `isFresh` unless it has carried a command before. */
  async take(path: string, { signal }: { signal?: AbortSignal | undefined }): Promise<Taken> {
    signal?.throwIfAborted()
    const at = this.#kept.findLastIndex((each) => each.path === path && each.socket.readyState === each.socket.OPEN)
    const [kept] = at < 0 ? [] : this.#kept.splice(at, 1)
    if (!kept) return { ...(await this.#transport.socket(path, { signal })), isFresh: true }
    kept.forget()
    kept.holdProcess(true)
    return { socket: kept.socket, holdProcess: kept.holdProcess, isFresh: false }
  }

  /** Whoever gives a socket back has taken all listeners off, and has nothing left to hear on it. */
  giveBack(path: string, { socket, holdProcess }: TransportSocket): void {
    if (this.#disposed || socket.readyState !== socket.OPEN) {
      socket.terminate()
      return
    }
    const drop = () => {
      const at = this.#kept.findIndex((each) => each.socket === socket)
      if (at >= 0) this.#kept.splice(at, 1)
    }
    const forget = () => socket.off('close', drop).off('error', drop)
    socket.on('close', drop).on('error', drop)
    this.#kept.push({ path, socket, holdProcess, forget })
    holdProcess(false)
    socket.resume()
    if (this.#kept.length > maxKept) this.#kept.shift()?.socket.terminate()
  }

  [Symbol.dispose](): void {
    this.#disposed = true
    for (const { socket } of this.#kept.splice(0)) socket.terminate()
  }
}

interface Taken extends TransportSocket {
  isFresh: boolean
}

interface Kept extends TransportSocket {
  path: string
  forget(): void
}
