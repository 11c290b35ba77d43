import type { PublicBuildLine } from '../contract/build.ts'
import { Fault } from '../model/fault.ts'
import { parseLine, readLines } from '../wire/lines.ts'
import { expectStream } from './read-reply.ts'
import type { Transport } from './transport.ts'

const maxLineBytes = 2 ** 20

/** What a build says, line by line, as it comes. */
export async function* readBuildLog(
  transport: Transport,
  path: string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<PublicBuildLine> {
  const body = await expectStream(await transport.request({ method: 'GET', path, quietMs: 0, signal }))
  try {
    for await (const line of readLines(body, maxLineBytes))
      yield parseLine(line, 'a line of the build') as PublicBuildLine
  } catch (cause) {
    if (signal?.aborted) return
    throw cause instanceof Fault ? cause : new Fault('unavailable', 'the log of the build broke off', { cause })
  } finally {
    body.destroy()
  }
}
