import { StringDecoder } from 'node:string_decoder'
import { Fault } from '../model/fault.ts'

export interface ServerSentEvent {
  id?: string
  event: string
  data: string
}

const maxEventLength = 16 * 2 ** 20

/** Cuts `text/event-stream` into events (HTML standard, 9.2.6); comments are left out. */
export async function* readServerSentEvents(body: AsyncIterable<Buffer>): AsyncGenerator<ServerSentEvent> {
  const decoder = new StringDecoder('utf8')
  let text = ''
  for await (const chunk of body) {
    text += decoder.write(chunk)
    const blocks = text.split(/\r?\n\r?\n/)
    text = blocks.pop() ?? ''
    if (text.length > maxEventLength) throw new Fault('exhausted', 'an event is longer than 16 MiB')
    for (const block of blocks) {
      const event = parseBlock(block)
      if (event) yield event
    }
  }
}

function parseBlock(block: string): ServerSentEvent | undefined {
  const data: string[] = []
  let event = 'message'
  let id: string | undefined
  for (const line of block.split(/\r?\n/)) {
    const colon = line.indexOf(':')
    const field = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (field === 'data') data.push(value)
    else if (field === 'event') event = value
    else if (field === 'id') id = value
  }
  if (data.length === 0) return undefined
  return { ...(id === undefined ? {} : { id }), event, data: data.join('\n') }
}
