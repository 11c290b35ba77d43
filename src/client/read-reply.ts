import type { Readable } from 'node:stream'
import type { Problem } from '../contract/problem.ts'
import { Fault, faultCodes } from '../model/fault.ts'
import type { TransportReply } from './transport.ts'

/** A list of ten thousand rows is a tenth of this. */
const maxBytes = 64 * 2 ** 20

/** The JSON of an answer, or its fault thrown again on this side. */
export async function readJson({ status, body }: TransportReply): Promise<unknown> {
  const text = await readText(body)
  if (status === 204) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new Fault('unavailable', `what answered (status ${status}) is no Tutti control plane`, { cause })
  }
  if (status >= 400) throw toFault(status, value)
  return value
}

/** Throws unless the answer is the stream that was asked for. */
export async function expectStream(reply: TransportReply): Promise<Readable> {
  if (reply.status >= 400) await readJson(reply)
  return reply.body
}

export async function readText(body: Readable): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > maxBytes) {
      body.destroy()
      throw new Fault('exhausted', `the answer is over ${maxBytes / 2 ** 20} MiB; ask for less with a limit`)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

export function toFault(status: number, value: unknown): Fault {
  const problem = (typeof value === 'object' && value !== null ? value : {}) as Partial<Problem>
  if (typeof problem.message !== 'string' || !faultCodes.some((code) => code === problem.code)) {
    return new Fault('unavailable', `what answered (status ${status}) is no Tutti control plane`)
  }
  const places = Array.isArray(problem.places) ? problem.places.slice(0, 1000) : []
  return new Fault(problem.code as Fault['code'], problem.message, { places: places as Fault['places'] })
}
