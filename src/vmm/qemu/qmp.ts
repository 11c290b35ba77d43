import { connect, type Socket } from 'node:net'
import { type Clock, deadline } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import { type QmpMessage, qmpDecoder } from './qmp-messages.ts'

/** A conversation with a running QEMU. Its socket serves one client at a time; the next one waits until we let go. */
export interface Qmp extends Disposable {
  /** Rejects with a Fault: `invalid` with QEMU's own words when it refuses, `unavailable` when it is gone. */
  execute(command: string, args?: Record<string, unknown>, options?: ExecuteOptions): Promise<unknown>
  /** Resolves with the data of the next such event that `accept` takes. */
  event(name: string, accept: (data: QmpData) => boolean, options: { signal: AbortSignal }): Promise<QmpData>
  /** The data of the last event of this name, if there was one. */
  last(name: string): QmpData | undefined
  readonly version: string
  /** Settles when the conversation is over; never rejects. */
  readonly closed: Promise<void>
}

export interface ExecuteOptions {
  signal?: AbortSignal
  /** Says it in our place, to a socket that nothing waits in: to pass a descriptor along. */
  say?: (socket: number, bytes: Uint8Array) => boolean
}

export type QmpData = Record<string, unknown>

export interface ConnectOptions {
  path: string
  clock: Clock
  signal: AbortSignal
  /** Why it is pointless to go on trying, once it is. */
  gone?: () => string | undefined
}

/**
 * Connects as soon as QEMU listens, and negotiates; anew when nothing comes back, since a QEMU that has not understood the
 * beginning of a message waits for its end for ever, and begins afresh with every client.
 */
export async function connectQmp(options: ConnectOptions): Promise<Qmp> {
  for (;;) {
    const socket = await connectSocket(options)
    const qmp = new QmpConnection(socket)
    using patience = deadline(options.clock, 3000, options.signal)
    try {
      await qmp.ready(patience.signal)
      await qmp.execute('qmp_capabilities', {}, patience)
      return qmp
    } catch (error) {
      qmp[Symbol.dispose]()
      const isOver = options.signal.aborted || options.gone?.() !== undefined
      if (isOver || (error instanceof Fault && error.code === 'invalid')) throw error
    }
  }
}

async function connectSocket({ path, clock, signal, gone }: ConnectOptions): Promise<Socket> {
  for (;;) {
    signal.throwIfAborted()
    const socket = connect(path)
    const outcome = await new Promise<'connected' | Error>((resolve) => {
      socket.once('connect', () => resolve('connected'))
      socket.once('error', resolve)
    })
    if (outcome === 'connected') return socket
    socket.destroy()
    const why = gone?.()
    if (why !== undefined) throw new Fault('unavailable', why, { cause: outcome })
    await clock.sleep(1, { signal })
  }
}

interface Waiting {
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
}

class QmpConnection implements Qmp {
  version = ''
  readonly closed: Promise<void>
  readonly #socket: Socket
  readonly #waiting = new Map<number, Waiting>()
  readonly #listeners = new Set<(message: QmpMessage | undefined) => void>()
  readonly #last = new Map<string, QmpData>()
  #nextId = 1
  #end: unknown

  constructor(socket: Socket) {
    this.#socket = socket
    const decoder = qmpDecoder()
    socket.on('data', (piece: Buffer) => {
      try {
        for (const message of decoder.push(piece)) this.#take(message)
      } catch (error) {
        this.#end = error
        socket.destroy()
      }
    })
    socket.on('error', (error) => {
      this.#end ??= error
    })
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#end ??= new Error('the monitor socket was closed')
        for (const { reject } of this.#waiting.values()) reject(this.#gone())
        this.#waiting.clear()
        for (const listener of this.#listeners) listener(undefined)
        resolve()
      })
    })
  }

  async ready(signal: AbortSignal): Promise<void> {
    if (this.version !== '') return
    await this.#listen((message) => message.kind === 'greeting', signal)
  }

  execute(command: string, args: QmpData = {}, { signal, say }: ExecuteOptions = {}): Promise<unknown> {
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason)
      if (this.#end !== undefined || this.#socket.destroyed) return reject(this.#gone())
      const abort = () => settle(reject)(signal?.reason)
      const settle =
        <T>(how: (value: T) => void) =>
        (value: T) => {
          signal?.removeEventListener('abort', abort)
          this.#waiting.delete(id)
          how(value)
        }
      signal?.addEventListener('abort', abort)
      this.#waiting.set(id, {
        resolve: settle(resolve),
        reject: settle((error: unknown) =>
          reject(error instanceof Fault ? error : new Fault('invalid', `QEMU refused ${command}`, { cause: error })),
        ),
      })
      const text = `${JSON.stringify({ execute: command, arguments: args, id })}\n`
      if (say === undefined) this.#socket.write(text)
      else if (!this.#sayDirectly(Buffer.from(text), say)) this.#refuse(id, new Error('it could not be told'))
    })
  }

  #sayDirectly(bytes: Uint8Array, say: NonNullable<ExecuteOptions['say']>): boolean {
    const { fd } = (this.#socket as unknown as { _handle?: { fd?: number } })._handle ?? {}
    return fd !== undefined && fd >= 0 && this.#socket.writableLength === 0 && say(fd, bytes)
  }

  async event(name: string, accept: (data: QmpData) => boolean, { signal }: { signal: AbortSignal }): Promise<QmpData> {
    const message = await this.#listen((one) => one.kind === 'event' && one.name === name && accept(one.data), signal)
    return message.kind === 'event' ? message.data : {}
  }

  last(name: string): QmpData | undefined {
    return this.#last.get(name)
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }

  #listen(wanted: (message: QmpMessage) => boolean, signal: AbortSignal): Promise<QmpMessage> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason)
      if (this.#socket.destroyed) return reject(this.#gone())
      const settle = (act: () => void) => {
        signal.removeEventListener('abort', abort)
        this.#listeners.delete(listener)
        act()
      }
      const abort = () => settle(() => reject(signal.reason))
      const listener = (message: QmpMessage | undefined) => {
        if (message === undefined) settle(() => reject(this.#gone()))
        else if (wanted(message)) settle(() => resolve(message))
      }
      signal.addEventListener('abort', abort)
      this.#listeners.add(listener)
    })
  }

  #take(message: QmpMessage): void {
    if (message.kind === 'greeting') this.version = message.version
    if (message.kind === 'return') this.#waiting.get(message.id)?.resolve(message.value)
    if (message.kind === 'error') this.#refuse(message.id, new Error(message.description))
    if (message.kind === 'event') this.#last.set(message.name, message.data)
    for (const listener of this.#listeners) listener(message)
  }

  /** What is refused without its number may be any of what was asked. */
  #refuse(id: number | undefined, error: Error): void {
    if (id !== undefined) {
      this.#waiting.get(id)?.reject(error)
      return
    }
    const fault = new Fault('unavailable', 'QEMU did not understand what it was told', { cause: error })
    for (const { reject } of this.#waiting.values()) reject(fault)
  }

  #gone(): Fault {
    return new Fault('unavailable', 'QEMU is gone', { cause: this.#end })
  }
}
