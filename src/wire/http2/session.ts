import type { Http2Session } from 'node:http2'
import http2 from 'node:http2'
import type { Duplex } from 'node:stream'
import { type Clock, deadline } from '../../kit/clock.ts'
import { sentence } from '../../model/fault.ts'
import { beatMs, leaseMs } from '../messages.ts'
import { sessionOptions } from './settings.ts'

/** The end of a session, said by either side; what it still had to say gets a moment to leave. */
export async function endSession(session: Http2Session, options: EndOptions): Promise<void> {
  if (!session.destroyed) session.close()
  await closed(session, options)
}

/** Waits until the session has closed, and breaks it off when that takes too long. */
async function closed(session: Http2Session, { clock, withinMs = 1000 }: EndOptions): Promise<void> {
  if (session.destroyed) return
  const done = new Promise<void>((resolve) => session.once('close', resolve))
  using patience = deadline(clock, withinMs)
  patience.signal.addEventListener('abort', () => breakSession(session), { once: true })
  await done
}

/** With an error, because streams that are destroyed without one look as if they had ended. */
export function breakSession(session: Http2Session): void {
  session.destroy(new Error('the connection was broken off'), http2.constants.NGHTTP2_CANCEL)
}

interface EndOptions {
  clock: Clock
  withinMs?: number
}

/**
 * Ends a connection before it began, with a sentence for the other side's log. TLS alerts carry no words, so the reason
 * travels as the debug data of an HTTP/2 GOAWAY.
 */
export async function refuse(socket: Duplex, reason: unknown, { clock }: { clock: Clock }): Promise<void> {
  const session = http2.connect('https://agent', { ...sessionOptions, createConnection: () => socket })
  session.on('error', () => {})
  session.once('connect', () => {
    session.goaway(http2.constants.NGHTTP2_INADEQUATE_SECURITY, 0, Buffer.from(sentence(reason).slice(0, 1000)))
    session.close()
  })
  await closed(session, { clock })
}

/** What a GOAWAY says, when it says something. */
export function goawayReason(code: number, data: Buffer | undefined): string | undefined {
  if (code === http2.constants.NGHTTP2_NO_ERROR || !data || data.length === 0) return undefined
  return data.subarray(0, 1000).toString('utf8')
}

/** Pings the other side as often as an agent beats; a side that has been silent for a lease is taken for dead. */
export async function watchPeer(session: Http2Session, { clock }: { clock: Clock }): Promise<void> {
  const over = new AbortController()
  session.once('close', () => over.abort())
  while (!session.destroyed) {
    await clock.sleep(beatMs, { signal: over.signal }).catch(() => {})
    if (session.destroyed || session.closed) return
    using patience = deadline(clock, leaseMs, over.signal)
    if (!(await answersPing(session, patience.signal))) breakSession(session)
  }
}

function answersPing(session: Http2Session, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(false), { once: true })
    const sent = session.ping((error) => resolve(error === null))
    if (!sent) resolve(false)
  })
}
