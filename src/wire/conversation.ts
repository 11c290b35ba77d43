import type { Duplex } from 'node:stream'
import type { z } from 'zod'
import { Fault } from '../model/fault.ts'
import { parseLine, readLines } from './lines.ts'
import { maxMessageBytes } from './messages.ts'

/**
 * One end of the conversation: JSON texts, one a line, over a byte stream. What arrives is checked against the schema
 * of what the other side may say; the first thing that does not fit ends the conversation, for after it nothing said
 * can be relied upon.
 */
export class Conversation<In, Out> {
  readonly #stream: Duplex
  readonly #schema: z.ZodType<In>
  readonly #peer: string

  constructor(stream: Duplex, { schema, peer }: { schema: z.ZodType<In>; peer: string }) {
    this.#stream = stream
    this.#schema = schema
    this.#peer = peer
  }

  /** Resolves once the message is handed on, which waits while the other side does not read. */
  async send(message: Out): Promise<void> {
    const line = Buffer.from(`${JSON.stringify(message)}\n`)
    if (line.length > maxMessageBytes) {
      throw new Fault(
        'exhausted',
        `a message of ${line.length} bytes to ${this.#peer} is over the limit of ${maxMessageBytes}`,
      )
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#stream.write(line, (error) => (error ? reject(this.#lost(error)) : resolve()))
    await promise
  }

  /** Ends when the other side ended it in good order; throws once when it was cut off or said what makes no sense. */
  async *messages(): AsyncGenerator<In> {
    try {
      for await (const line of readLines(this.#stream, maxMessageBytes)) {
        const parsed = this.#schema.safeParse(parseLine(line, `a message of ${this.#peer}`))
        if (!parsed.success)
          throw new Fault('invalid', `${this.#peer} said what cannot be understood`, { cause: parsed.error })
        yield parsed.data
      }
    } catch (error) {
      this.#stream.destroy(error instanceof Error ? error : undefined)
      throw this.#lost(error)
    }
  }

  #lost(error: unknown): Fault {
    return error instanceof Fault
      ? error
      : new Fault('unavailable', `the connection to ${this.#peer} was lost`, { cause: error })
  }
}
