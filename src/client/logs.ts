import type { Problem } from '../contract/problem.ts'
import { Fault } from '../model/fault.ts'
import { FrameDecoder, frame } from '../wire/frames.ts'
import { expectStream, toFault } from './read-reply.ts'
import type { Transport } from './transport.ts'

export interface LogChunk {
  stream: 'stdout' | 'stderr'
  data: Buffer
}

/** The output of a task as it comes. */
export async function* readLogs(
  transport: Transport,
  path: string,
  stream: 'stdout' | 'stderr' | 'both',
  { signal }: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<LogChunk> {
  const body = await expectStream(await transport.request({ method: 'GET', path, quietMs: 0, signal }))
  try {
    if (stream !== 'both') {
      for await (const data of body as AsyncIterable<Buffer>) yield { stream, data }
      return
    }
    const decoder = new FrameDecoder()
    for await (const chunk of body as AsyncIterable<Buffer>) {
      for (const { kind, payload } of decoder.push(chunk)) {
        if (kind === frame.stdout) yield { stream: 'stdout', data: payload }
        else if (kind === frame.stderr) yield { stream: 'stderr', data: payload }
        else if (kind === frame.fault) throw parseFault(payload)
      }
    }
  } catch (error) {
    if (signal?.aborted) return
    throw error instanceof Fault ? error : new Fault('unavailable', 'the stream of logs broke off', { cause: error })
  } finally {
    body.destroy()
  }
}

/** The fault inside a `fault` frame; its code may be missing. */
export function parseFault(payload: Buffer): Fault {
  try {
    const value = JSON.parse(payload.toString('utf8')) as Partial<Problem>
    return toFault(500, { code: 'unavailable', ...value })
  } catch {
    return new Fault('unavailable', payload.toString('utf8').slice(0, 1000))
  }
}
