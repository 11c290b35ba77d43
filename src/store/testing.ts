import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../kit/clock.ts'
import type { Allocation, AllocationPhase } from '../model/allocation.ts'
import { AllocationId, encodeId, NodeId } from '../model/ids.ts'
import type { Dirty } from '../model/records.ts'

/** What the tests of the store share. */

/** Rises by one with each look, so that every transaction has a time of its own. Never sleeps long. */
export function countingClock(): Clock {
  let now = 1_800_000_000_000
  return { now: () => ++now, monotonic: () => ++now, sleep: () => new Promise((resolve) => setImmediate(resolve)) }
}

export function dirty(job: string, reason = 'test'): Dirty {
  return { job, reasons: [reason], since: 0 }
}

export function allocation(n: number, fields: { node: number; phase: AllocationPhase; job: string }): Allocation {
  return {
    id: AllocationId.parse(testId(n)),
    job: fields.job,
    version: 1,
    slot: 0,
    node: NodeId.parse(testId(fields.node)),
    generation: 0,
    desired: 'run',
    ports: {},
    phase: fields.phase,
    healthy: true,
    tasks: {},
    createdAt: 0,
    changedAt: 0,
  }
}

export function testId(n: number): string {
  const bytes = Buffer.alloc(10)
  bytes.writeUInt32BE(n, 6)
  return encodeId(bytes)
}

export async function temporaryDirectory(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'tutti-store-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}
