import type { Readable } from 'node:stream'
import type { SnapshotEnd, SnapshotRow, WatchChange } from '../contract/watch.ts'
import { Fault } from '../model/fault.ts'
import { expectStream, toFault } from './read-reply.ts'
import { readServerSentEvents } from './server-sent-events.ts'
import type { Transport } from './transport.ts'

export type WatchEvent =
  /** A snapshot begins: forget what earlier ones said. */
  | { type: 'reset' }
  | ({ type: 'row' } & SnapshotRow)
  /** The snapshot is complete. */
  | ({ type: 'ready' } & SnapshotEnd)
  | ({ type: 'change' } & WatchChange)

/** All that is needed of a clock. */
export interface Sleeper {
  sleep(ms: number, options?: { signal?: AbortSignal | undefined }): Promise<void>
}

/** The server says something at least every 15 s. */
const quietMs = 45_000
const firstPauseMs = 250
const longestPauseMs = 5000
/** After this many failures in a row the watch gives up. */
const maxFailures = 12

/**
 * A snapshot, then every change without a gap. A connection that is lost is made again from where it broke; when the
 * server does not keep changes that far back, a new snapshot begins. Ends with `signal`.
 */
export async function* watch(
  transport: Transport,
  clock: Sleeper,
  pathFrom: (from: number | undefined) => string,
  { signal }: { signal?: AbortSignal | undefined } = {},
): AsyncGenerator<WatchEvent> {
  let seen: number | undefined
  let failures = 0
  while (!signal?.aborted) {
    try {
      // One earlier: the connection may have broken in the middle of a commit, and rows may come twice.
      const from = seen === undefined ? undefined : Math.max(0, seen - 1)
      const body = await expectStream(await transport.request({ method: 'GET', path: pathFrom(from), quietMs, signal }))
      if (from === undefined) yield { type: 'reset' }
      for await (const event of readEvents(body)) {
        failures = 0
        if (event.type === 'ready' || event.type === 'change') {
          const again = event.type === 'ready' && seen !== undefined
          seen = Math.max(seen ?? 0, event.index)
          if (again) continue
        }
        yield event
      }
    } catch (error) {
      if (signal?.aborted) return
      const fault = Fault.from(error)
      // Not kept that far back, or an index of a state that is no more: begin anew.
      const lost = seen !== undefined && (fault.code === 'exhausted' || fault.code === 'invalid')
      if (lost) seen = undefined
      else if (seen === undefined && fault.code !== 'unavailable') throw fault
      else if (!passing.has(fault.code) || failures >= maxFailures) throw fault
    }
    failures += 1
    await clock.sleep(Math.min(firstPauseMs * 2 ** (failures - 1), longestPauseMs), { signal }).catch(() => {})
  }
}

/** Faults that a restarting control plane shows. */
const passing = new Set(['unavailable', 'internal', 'exhausted'])

async function* readEvents(body: Readable): AsyncGenerator<Exclude<WatchEvent, { type: 'reset' }>> {
  try {
    for await (const { event, data } of readServerSentEvents(body)) {
      const value = JSON.parse(data)
      if (event === 'snapshot-row') yield { type: 'row', ...value }
      else if (event === 'snapshot-end') yield { type: 'ready', ...value }
      else if (event === 'change') yield { type: 'change', ...value }
      else if (event === 'fault') throw toFault(500, value)
    }
  } catch (cause) {
    throw cause instanceof Fault ? cause : new Fault('unavailable', 'the watch broke off', { cause })
  } finally {
    body.destroy()
  }
}
