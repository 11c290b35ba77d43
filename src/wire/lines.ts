import type { Readable } from 'node:stream'
import { Fault } from '../model/fault.ts'

/**
 * Lines of a byte stream, for JSON texts: cut at each newline, never longer than a bound, whatever the pieces they come
 * in. A line that the stream ends in the middle of is a Fault, for it may be half of a message.
 */
export class LineDecoder {
  readonly #maxBytes: number
  #pieces: Buffer[] = []
  #length = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  /** Bytes of a line that has not ended yet. */
  get pending(): number {
    return this.#length
  }

  *push(chunk: Buffer): Generator<string> {
    let from = 0
    for (let at = chunk.indexOf(newline); at !== -1; at = chunk.indexOf(newline, from)) {
      this.#add(chunk.subarray(from, at))
      from = at + 1
      yield this.#take()
    }
    if (from < chunk.length) this.#add(chunk.subarray(from))
  }

  #add(piece: Buffer): void {
    this.#length += piece.length
    if (this.#length > this.#maxBytes) {
      throw new Fault('invalid', `a line is over the limit of ${this.#maxBytes} bytes`)
    }
    this.#pieces.push(piece)
  }

  #take(): string {
    const [first] = this.#pieces
    const line = this.#pieces.length === 1 && first ? first : Buffer.concat(this.#pieces)
    this.#pieces = []
    this.#length = 0
    return line.toString('utf8')
  }
}

/** Every line of the stream in turn; reads on only as they are taken. */
export async function* readLines(stream: Readable, maxBytes: number): AsyncGenerator<string> {
  const decoder = new LineDecoder(maxBytes)
  for await (const chunk of stream) yield* decoder.push(chunk as Buffer)
  if (decoder.pending > 0) throw new Fault('invalid', 'the stream ended in the middle of a line')
}

const newline = 10

/** The JSON value of a line that came from elsewhere. */
export function parseLine(line: string, what: string): unknown {
  try {
    return JSON.parse(line)
  } catch (cause) {
    throw new Fault('invalid', `${what} is not JSON`, { cause })
  }
}
