import { Readable, Writable } from 'node:stream'
import type { GuestExecution } from '../../guest/channel.ts'
import type { Clock } from '../../kit/clock.ts'
import type { KeptOutput, OutputKind } from './kept-output.ts'

export interface ClientOptions {
  execution: GuestExecution
  kept: KeptOutput
  from: number
  clock: Clock
  /** The command will write no more. */
  isOver: () => boolean
  /** It took something. */
  moved: () => void
  left: () => void
}

const pieceBytes = 32_768

/** A command as one of those who are joined to it sees it: its own place in the output, the same input for all. */
export class CommandClient implements GuestExecution {
  readonly pid: number
  readonly from: number
  /** Ending it ends the command's input, for all. */
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable | undefined
  readonly exited: Promise<{ code: number }>
  readonly #options: ClientOptions
  readonly #exit = Promise.withResolvers<{ code: number }>()
  readonly #wanted: Record<OutputKind, boolean> = { stdout: true, stderr: true }
  #position: number
  #movedAt: number
  #hasLeft = false

  constructor(options: ClientOptions) {
    const { execution, from, clock } = options
    this.#options = options
    this.pid = execution.pid
    this.from = from
    this.#position = from
    this.#movedAt = clock.monotonic()
    this.stdin = inputOf(execution)
    this.stdout = this.#output('stdout')
    this.stderr = execution.stderr ? this.#output('stderr') : undefined
    this.exited = this.#exit.promise
    this.exited.catch(() => {})
    execution.exited.then(this.#exit.resolve, this.#exit.reject)
  }

  /** Offset of the next byte that it takes. */
  get position(): number {
    return this.#position
  }

  /** When it last took something, by the monotonic clock, ms. */
  get movedAt(): number {
    return this.#movedAt
  }

  resize(size: { columns: number; rows: number }): void {
    if (!this.#hasLeft) this.#options.execution.resize(size)
  }

  kill(signal: string): void {
    if (!this.#hasLeft) this.#options.execution.kill(signal)
  }

  /** There is more, or there will be no more. */
  wake(): void {
    const { kept, isOver } = this.#options
    while (!this.#hasLeft) {
      const piece = kept.read(this.#position)
      if (!piece) {
        if (isOver()) this.#finish()
        return
      }
      const output = piece.kind === 'stderr' ? this.stderr : this.stdout
      const isWanted = output !== undefined && !output.destroyed
      if (isWanted && !this.#wanted[piece.kind]) return
      this.#position += piece.bytes.length
      this.#movedAt = this.#options.clock.monotonic()
      if (isWanted) this.#wanted[piece.kind] = output.push(piece.bytes)
      this.#options.moved()
    }
  }

  /** Whoever it was hears no more of the command, and why. */
  leave(reason: unknown): void {
    if (this.#hasLeft) return
    const error = reason instanceof Error ? reason : new Error(String(reason))
    this.#exit.reject(error)
    this.#end()
    for (const output of [this.stdout, this.stderr]) output?.destroy(error)
    this.stdin.destroy()
  }

  #finish(): void {
    this.#end()
    for (const output of [this.stdout, this.stderr]) if (!output?.destroyed) output?.push(null)
  }

  #end(): void {
    this.#hasLeft = true
    this.#options.left()
  }

  #output(kind: OutputKind): Readable {
    const output = new Readable({
      highWaterMark: pieceBytes,
      read: () => {
        this.#wanted[kind] = true
        this.wake()
      },
      destroy: (error, done) => {
        done(error)
        // What nobody reads must hold up nobody.
        queueMicrotask(() => this.wake())
      },
    })
    // It is told by other ways too, and must not end the process.
    output.on('error', () => {})
    return output
  }
}

function inputOf({ stdin }: GuestExecution): Writable {
  const input = new Writable({
    highWaterMark: pieceBytes,
    write: (chunk: Buffer, _encoding, done) => {
      if (stdin.writable) stdin.write(chunk, done)
      else done()
    },
    final: (done) => {
      stdin.end()
      done()
    },
  })
  input.on('error', () => {})
  return input
}
