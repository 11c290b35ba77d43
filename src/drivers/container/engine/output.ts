import { type FileHandle, open } from 'node:fs/promises'
import { z } from 'zod'
import type { EngineClient } from './client.ts'
import { type EngineFrame, FrameCutter } from './frames.ts'

/**
 * Copies a container's output from the engine's log into the task's files, each byte once, whoever copies it.
 *
 * The engine keeps what the task writes while no agent is there. A position file beside the task's state says, for each
 * stream, which second of the log was reached, how many entries since the beginning of that second have been copied,
 * and how long the task's file was then. After a crash the same log is asked for again from that second: entries that
 * were counted are skipped, and so are as many bytes as the file has grown beyond the noted length, since it is written
 * first and the position afterwards. Seconds, because some engines give no finer times.
 */
export class OutputCopy implements AsyncDisposable {
  readonly #options: OutputCopyOptions
  readonly #streams: Record<StreamName, StreamCopy>
  readonly #position: FileHandle
  #tail = Promise.resolve()

  private constructor(options: OutputCopyOptions, position: FileHandle, streams: Record<StreamName, StreamCopy>) {
    this.#options = options
    this.#position = position
    this.#streams = streams
  }

  static async open(options: OutputCopyOptions): Promise<OutputCopy> {
    await using opened = new AsyncDisposableStack()
    const position = opened.use(await open(options.positionFile, 'a+', 0o600))
    const known = parsePositions(await position.readFile('utf8'))
    // Written in place, so not in append mode.
    const writable = opened.use(await open(options.positionFile, 'r+'))
    await position.close()
    const streams = {
      stdout: await StreamCopy.open(opened.use(await open(options.output.stdout, 'a', 0o640)), known?.stdout),
      stderr: await StreamCopy.open(opened.use(await open(options.output.stderr, 'a', 0o640)), known?.stderr),
    }
    opened.move()
    const copy = new OutputCopy(options, writable, streams)
    // Before anything is written, so that there always is a length to compare with.
    if (!known) await copy.#note()
    return copy
  }

  /** Copies until the engine ends the stream or `signal` is aborted. Never two at once. */
  async copy({ follow, signal }: { follow: boolean; signal: AbortSignal }): Promise<void> {
    const before = this.#tail
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#tail = promise
    await before
    try {
      await this.#copy(follow, signal)
    } finally {
      resolve()
    }
  }

  async #copy(follow: boolean, signal: AbortSignal): Promise<void> {
    const { client, containerId } = this.#options
    const streams = Object.values(this.#streams)
    const since = Math.min(...streams.map((stream) => stream.position.second))
    for (const stream of streams) stream.rewind()
    const query = `stdout=1&stderr=1&timestamps=1&follow=${follow ? 1 : 0}&since=${since}`
    const answer = await client.open('GET', `/containers/${containerId}/logs?${query}`, { signal })
    const cutter = new FrameCutter()
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      if (signal.aborted) return
      for (const frame of cutter.cut(chunk)) this.#streams[frame.stream].take(frame)
      if ((await Promise.all(streams.map((stream) => stream.flush()))).some((wrote) => wrote)) await this.#note()
    }
  }

  async #note(): Promise<void> {
    const { stdout, stderr } = this.#streams
    const text = JSON.stringify({ stdout: stdout.position, stderr: stderr.position } satisfies Positions)
    // Of constant length: one write replaces it.
    await this.#position.write(text.padEnd(400), 0)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tail
    await this.#position.close()
    await this.#streams.stdout.close()
    await this.#streams.stderr.close()
  }
}

export interface OutputCopyOptions {
  client: EngineClient
  containerId: string
  output: Record<StreamName, string>
  positionFile: string
}

type StreamName = EngineFrame['stream']

class StreamCopy {
  readonly #file: FileHandle
  position: Position
  #seen = 0
  #rereading = true
  /** Bytes of the next entries that the file has already. */
  #surplus: number
  #waiting: Buffer[] = []

  private constructor(file: FileHandle, position: Position, surplus: number) {
    this.#file = file
    this.position = position
    this.#surplus = surplus
  }

  static async open(file: FileHandle, known: Position | undefined): Promise<StreamCopy> {
    const { ino, size } = await file.stat()
    const position = known ?? { second: 0, entries: 0, ino, length: size }
    // A file that was begun anew in the meantime tells nothing about how far we came.
    return new StreamCopy(file, position, position.ino === ino ? Math.max(0, size - position.length) : 0)
  }

  /** The log is about to be read again from the noted second, at the latest. */
  rewind(): void {
    this.#seen = 0
    this.#rereading = true
  }

  take({ payload }: EngineFrame): void {
    const space = payload.indexOf(0x20)
    const second = Math.floor(Date.parse(payload.subarray(0, space).toString('latin1')) / 1000)
    if (second < this.position.second) {
      // On a second reading that is the other stream's past; else the clock was set back, and it is new.
      if (!this.#rereading) this.#waiting.push(payload.subarray(space + 1))
      return
    }
    this.#rereading = false
    if (second > this.position.second) {
      this.position = { ...this.position, second, entries: 0 }
      this.#seen = 0
    }
    this.#seen += 1
    if (this.#seen <= this.position.entries) return
    this.position = { ...this.position, entries: this.#seen }
    const text = payload.subarray(space + 1)
    const known = Math.min(this.#surplus, text.length)
    this.#surplus -= known
    this.#waiting.push(text.subarray(known))
  }

  async flush(): Promise<boolean> {
    if (this.#waiting.length === 0) return false
    const bytes = Buffer.concat(this.#waiting)
    this.#waiting = []
    await this.#file.appendFile(bytes)
    const { ino, size } = await this.#file.stat()
    this.position = { ...this.position, ino, length: size }
    return true
  }

  close(): Promise<void> {
    return this.#file.close()
  }
}

const Position = z.object({
  /** Of the newest entry copied, since the epoch. */
  second: z.int().nonnegative(),
  /** Entries copied that are of this second. */
  entries: z.int().nonnegative(),
  /** The task's file, and its length after those entries. */
  ino: z.number(),
  length: z.int().nonnegative(),
})
type Position = z.infer<typeof Position>
const Positions = z.object({ stdout: Position, stderr: Position })
type Positions = z.infer<typeof Positions>

function parsePositions(text: string): Positions | undefined {
  try {
    return Positions.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}
