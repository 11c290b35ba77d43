import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import { type Allocation, isLive } from '../../model/allocation.ts'
import { type Job, slotKey, versionKey } from '../../model/records.ts'
import type { Tx } from '../../store/store.ts'
import type { Control } from '../control.ts'

/** What is kept of the past. Everything beyond it is collected. */
export interface Retention {
  events: number
  audit: number
  /** Ended allocations of a slot besides the newest. */
  allocationsPerSlot: number
  versionsPerJob: number
  /** Batch jobs that have ended, newest first. */
  endedJobs: number
  endedJobMs: number
}

export const defaultRetention: Retention = {
  events: 20_000,
  audit: 20_000,
  allocationsPerSlot: 4,
  versionsPerJob: 20,
  endedJobs: 10_000,
  endedJobMs: 24 * 3_600_000,
}

/** Rows deleted in one transaction: a large backlog is worked off without holding up anybody. */
const perCommit = 2000

/** Keeps history bounded: forgets old events, old attempts, old versions and batch jobs that ended long ago. */
export async function collectGarbage(
  control: Control,
  { signal, retention = defaultRetention }: { signal: AbortSignal; retention?: Retention },
): Promise<void> {
  await loop({
    clock: control.clock,
    wakeup: new Wakeup(),
    everyMs: 30_000,
    signal,
    onError: (error) => control.log.error({ err: error }, 'old rows could not be collected'),
    pass: async () => {
      while (!signal.aborted && (await collectOnce(control, retention)) >= perCommit)
        await control.clock.sleep(50, { signal })
    },
  })
}

/** One transaction's worth; resolves with how many rows went. */
export async function collectOnce(control: Control, retention: Retention): Promise<number> {
  const doomed = [...doomedRows(control, retention)].slice(0, perCommit)
  if (doomed.length === 0) return 0
  await control.store.write((tx) => {
    for (const row of doomed) if (stillDoomed(tx, row)) tx.delete(row.table, row.key)
  })
  return doomed.length
}

interface Doomed {
  table: 'events' | 'audit' | 'allocations' | 'jobVersions' | 'slots' | 'jobs' | 'timers'
  key: string
}

function* doomedRows({ store, clock }: Control, retention: Retention): Iterable<Doomed> {
  const { view } = store
  for (const table of ['events', 'audit'] as const) {
    const excess = view.count(table) - retention[table]
    if (excess <= 0) continue
    const keys = [...view.all(table)].map((row) => row.id).sort()
    for (const key of keys.slice(0, excess)) yield { table, key }
  }
  const ended: Job[] = []
  for (const job of view.all('jobs')) {
    const allocations = [...view.by('allocationsByJob', job.name)]
    yield* oldAttempts(allocations, retention)
    yield* oldVersions(
      [...view.by('versionsByJob', job.name)].map((row) => row.version),
      allocations,
      job,
      retention,
    )
    if (isOver(job, allocations) && !view.get('dirty', job.name)) ended.push(job)
  }
  ended.sort((a, b) => b.changedAt - a.changedAt)
  const oldest = clock.now() - retention.endedJobMs
  for (const [rank, job] of ended.entries()) {
    if (rank < retention.endedJobs && job.changedAt > oldest) continue
    for (const allocation of view.by('allocationsByJob', job.name)) yield { table: 'allocations', key: allocation.id }
    for (const slot of view.by('slotsByJob', job.name)) yield { table: 'slots', key: slotKey(job.name, slot.index) }
    for (const row of view.by('versionsByJob', job.name))
      yield { table: 'jobVersions', key: versionKey(job.name, row.version) }
    for (const timer of view.by('timersByJob', job.name)) yield { table: 'timers', key: timer.id }
    yield { table: 'jobs', key: job.name }
  }
}

function* oldAttempts(allocations: readonly Allocation[], retention: Retention): Iterable<Doomed> {
  const bySlot = Map.groupBy(
    allocations.filter((row) => !isLive(row)),
    (row) => row.slot,
  )
  for (const rows of bySlot.values()) {
    if (rows.length <= retention.allocationsPerSlot) continue
    rows.sort((a, b) => b.createdAt - a.createdAt)
    for (const row of rows.slice(retention.allocationsPerSlot)) yield { table: 'allocations', key: row.id }
  }
}

function* oldVersions(
  versions: number[],
  allocations: readonly Allocation[],
  job: Job,
  retention: Retention,
): Iterable<Doomed> {
  if (versions.length <= retention.versionsPerJob) return
  const inUse = new Set(allocations.map((row) => row.version))
  versions.sort((a, b) => b - a)
  for (const version of versions.slice(retention.versionsPerJob)) {
    if (!inUse.has(version)) yield { table: 'jobVersions', key: versionKey(job.name, version) }
  }
}

/** A batch job whose copies have all ended well, or any stopped job, with nothing of it alive. */
function isOver(job: Job, allocations: readonly Allocation[]): boolean {
  if (allocations.some((row) => isLive(row))) return false
  if (job.stopped) return true
  return (
    job.spec.type === 'batch' &&
    job.blocked === '' &&
    allocations.length > 0 &&
    allocations.every((row) => row.phase === 'complete')
  )
}

function stillDoomed(tx: Tx, row: Doomed): boolean {
  if (row.table !== 'allocations') return true
  const allocation = tx.get('allocations', row.key)
  return allocation !== undefined && !isLive(allocation)
}
