import { Fault } from '../model/fault.ts'
import type { FileEvent } from '../model/guest.ts'
import { expectStream, toFault } from './read-reply.ts'
import { readServerSentEvents } from './server-sent-events.ts'
import type { Transport } from './transport.ts'

/** What changes in a directory of a sandbox, until `signal` fires. The first is `ready`: from then on none is missed. */
export async function* watchFiles(
  transport: Transport,
  path: string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<FileEvent | { kind: 'ready' }> {
  const body = await expectStream(await transport.request({ method: 'GET', path, quietMs: 45_000, signal }))
  try {
    for await (const { event, data } of readServerSentEvents(body)) {
      if (event === 'ready') yield { kind: 'ready' }
      else if (event === 'change') yield JSON.parse(data) as FileEvent
      else if (event === 'fault') throw toFault(500, JSON.parse(data))
    }
  } catch (cause) {
    if (signal?.aborted) return
    throw cause instanceof Fault ? cause : new Fault('unavailable', 'the watch broke off', { cause })
  } finally {
    body.destroy()
  }
}
