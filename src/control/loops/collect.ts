import { loop } from '../../kit/loop.ts'
import { Wakeup } from '../../kit/wakeup.ts'
import { type Allocation, isLive } from '../../model/allocation.ts'
import { type Job, keyOf, slotKey, versionKey } from '../../model/records.ts'
import { isOver } from '../../model/sandbox.ts'
import type { Tx, View } from '../../store/store.ts'
import type { Control } from '../control.ts'

/** What is kept of the past. Everything beyond it is collected. */
export interface Retention {
  events: number
  audit: number
  /** Newest ended allocations of a slot. */
  allocationsPerSlot: number
  versionsPerJob: number
  /** Jobs that were stopped, or are batch jobs that have ended: the newest. */
  endedJobs: number
  /** Batch jobs that ended well are kept this long. */
  endedJobMs: number
  /** Newest sandboxes that are over. */
  endedSandboxes: number
  /** Newest builds that failed. */
  failedBuilds: number
}

export const defaultRetention: Retention = {
  events: 20_000,
  audit: 20_000,
  allocationsPerSlot: 4,
  versionsPerJob: 20,
  endedJobs: 10_000,
  endedJobMs: 24 * 3_600_000,
  endedSandboxes: 2000,
  failedBuilds: 100,
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

/** One transaction's worth; resolves with how many rows were looked at. */
export async function collectOnce(control: Control, retention: Retention): Promise<number> {
  const doomed = [...doomedRows(control, retention)].slice(0, perCommit)
  if (doomed.length === 0) return 0
  await control.store.write((tx) => {
    for (const row of doomed) if (stillDoomed(tx, row)) tx.delete(row.table, row.key)
  })
  return doomed.length
}

interface Doomed {
  table:
    | 'events'
    | 'audit'
    | 'allocations'
    | 'jobVersions'
    | 'slots'
    | 'jobs'
    | 'timers'
    | 'sandboxes'
    | 'builds'
    | 'buildLogs'
  key: string
  /** Goes only while this job is as it was when it was judged. */
  with?: Job
}

function* doomedRows({ store, clock }: Control, retention: Retention): Iterable<Doomed> {
  const { view } = store
  for (const table of ['events', 'audit'] as const) {
    const excess = view.count(table) - retention[table]
    if (excess <= 0) continue
    const keys = [...view.all(table)].map((row) => row.id).sort()
    for (const key of keys.slice(0, excess)) yield { table, key }
  }
  yield* oldSandboxes(view, retention)
  yield* oldBuilds(view, retention)
  const over: { job: Job; endedAt: number }[] = []
  for (const job of view.all('jobs')) {
    const allocations = [...view.by('allocationsByJob', job.name)]
    const versions = [...view.by('versionsByJob', job.name)].map((row) => row.version)
    yield* oldAttempts(allocations, retention)
    yield* oldVersions(versions, allocations, job, retention)
    if (!isJobOver(job, allocations) || view.get('dirty', job.name)) continue
    over.push({ job, endedAt: Math.max(job.changedAt, ...allocations.map((row) => row.changedAt)) })
  }
  over.sort((a, b) => b.endedAt - a.endedAt)
  const oldest = clock.now() - retention.endedJobMs
  for (const [rank, { job, endedAt }] of over.entries()) {
    // A job that somebody stopped is kept for its history; one that ran its course only for a while.
    const isOld = !job.stopped && endedAt <= oldest
    if (rank >= retention.endedJobs || isOld) yield* wholeJob(view, job)
  }
}

function* oldSandboxes(view: View, { endedSandboxes }: Retention): Iterable<Doomed> {
  if (view.count('sandboxes') <= endedSandboxes) return
  const ended = [...view.all('sandboxes')].filter(({ phase }) => isOver(phase))
  ended.sort((a, b) => b.changedAt - a.changedAt)
  for (const { id } of ended.slice(endedSandboxes)) yield { table: 'sandboxes', key: id }
}

/** Failed ones are kept to be read; their nodes were told to forget them when they failed. */
function* oldBuilds(view: View, { failedBuilds }: Retention): Iterable<Doomed> {
  if (view.count('builds') <= failedBuilds) return
  const failed = [...view.all('builds')].filter(({ status }) => status === 'failed')
  failed.sort((a, b) => b.changedAt - a.changedAt)
  for (const build of failed.slice(failedBuilds)) {
    for (const log of view.by('buildLogsByBuild', build.id)) yield { table: 'buildLogs', key: keyOf.buildLogs(log) }
    yield { table: 'builds', key: build.id }
  }
}

function* wholeJob(view: View, job: Job): Iterable<Doomed> {
  for (const { id } of view.by('allocationsByJob', job.name)) yield { table: 'allocations', key: id, with: job }
  for (const { index } of view.by('slotsByJob', job.name))
    yield { table: 'slots', key: slotKey(job.name, index), with: job }
  for (const { version } of view.by('versionsByJob', job.name)) {
    yield { table: 'jobVersions', key: versionKey(job.name, version), with: job }
  }
  for (const { id } of view.by('timersByJob', job.name)) yield { table: 'timers', key: id, with: job }
  yield { table: 'jobs', key: job.name, with: job }
}

function* oldAttempts(allocations: readonly Allocation[], retention: Retention): Iterable<Doomed> {
  const ended = allocations.filter((row) => !isLive(row))
  for (const rows of Map.groupBy(ended, (row) => row.slot).values()) {
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
    if (!inUse.has(version)) yield { table: 'jobVersions', key: versionKey(job.name, version), with: job }
  }
}

/** A batch job whose copies have all ended well, or any stopped job, with nothing of it alive. */
function isJobOver(job: Job, allocations: readonly Allocation[]): boolean {
  if (allocations.some(isLive)) return false
  if (job.stopped) return true
  const isDone = allocations.length > 0 && allocations.every((row) => row.phase === 'complete')
  return job.spec.type === 'batch' && job.blocked === '' && isDone
}

/** The state may have moved on since it was looked at, also by writes that are still on their way. */
function stillDoomed(tx: Tx, { table, key, with: job }: Doomed): boolean {
  if (table === 'allocations') {
    const allocation = tx.get(table, key)
    if (!allocation || isLive(allocation)) return false
  }
  if (!job) return true
  // The job itself goes last of its rows, so it is still there to compare with.
  return tx.get('jobs', job.name) === job && !tx.get('dirty', job.name)
}
