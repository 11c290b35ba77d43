import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { Clock } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'
import { problemOf, statusOf } from './problem.ts'
import type { ServerSentEvent } from './route.ts'

/** A comment this often keeps proxies from closing a quiet stream. */
const quietMs = 15_000

/** Writes server-sent events until they end or the client goes; waits while the client reads slowly. */
export async function sendEvents(
  response: ServerResponse,
  events: AsyncIterable<ServerSentEvent>,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  const done = new AbortController()
  const keepAlive = beat(response, clock, AbortSignal.any([signal, done.signal]))
  try {
    for await (const { id, event, data } of events) {
      if (signal.aborted) return
      if (!response.headersSent) begin(response)
      const text = `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`
      if (!response.write(text)) await once(response, 'drain', { signal })
    }
  } catch (error) {
    if (!signal.aborted) tell(response, Fault.from(error))
  } finally {
    done.abort()
    await keepAlive
    response.end()
  }
}

function begin(response: ServerResponse): void {
  response.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no',
  })
}

/** Before the first event a fault is an ordinary failed request; after it, an event of its own. */
function tell(response: ServerResponse, fault: Fault): void {
  const problem = JSON.stringify(problemOf(fault))
  if (response.headersSent) response.write(`event: fault\ndata: ${problem}\n\n`)
  else response.writeHead(statusOf[fault.code], { 'content-type': 'application/problem+json' }).write(problem)
}

async function beat(response: ServerResponse, clock: Clock, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(quietMs, { signal }).catch(() => {})
    if (!signal.aborted && response.headersSent) response.write(': still here\n\n')
  }
}
