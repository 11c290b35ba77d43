import type { z } from 'zod'
import { Fault } from '../model/fault.ts'
import { parseLine } from './lines.ts'
import type { Lane } from './memory-lane.ts'
import { maxMessageBytes } from './messages.ts'

/** One end of the conversation in memory; what `Conversation` is over a byte stream, without the cost of one. */
export class MemoryTalk<In, Out> {
  readonly messages: AsyncIterable<In>
  readonly #options: TalkOptions<In>
  #isOver = false

  constructor(options: TalkOptions<In>) {
    this.#options = options
    this.messages = this.#listen()
  }

  async send(message: Out): Promise<void> {
    const { outgoing, lost, peer } = this.#options
    if (this.#isOver) throw lost()
    const bytes = Buffer.from(JSON.stringify(message))
    if (bytes.length >= maxMessageBytes) {
      throw new Fault(
        'exhausted',
        `a message of ${bytes.length} bytes to ${peer} is over the limit of ${maxMessageBytes}`,
      )
    }
    await outgoing.send(bytes)
  }

  /** In good order: what was said before is still heard by the other side. */
  close(): void {
    const { outgoing, incoming } = this.#options
    outgoing.end()
    incoming.discard()
    incoming.end()
    this.#over()
  }

  async *#listen(): AsyncGenerator<In> {
    const { outgoing, incoming, schema, peer, lost } = this.#options
    let isWhole = false
    try {
      for (let bytes = await incoming.take(); bytes; bytes = await incoming.take()) {
        const parsed = schema.safeParse(parseLine(bytes.toString(), `a message of ${peer}`))
        if (!parsed.success)
          throw new Fault('invalid', `${peer} said what cannot be understood`, { cause: parsed.error })
        yield parsed.data
      }
      isWhole = true
      outgoing.end()
    } finally {
      if (!isWhole) {
        outgoing.reset('from', lost())
        incoming.reset('to', lost())
      }
      this.#over()
    }
  }

  #over(): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#options.onOver()
  }
}

interface TalkOptions<In> {
  outgoing: Lane
  incoming: Lane
  schema: z.ZodType<In>
  peer: string
  lost: () => Fault
  /** Called once, however it came about. */
  onOver: () => void
}
