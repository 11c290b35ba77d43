import type { Client } from '../client/client.ts'
import type { WatchEvent } from '../client/watch.ts'
import type { PublicAllocation } from '../contract/allocation.ts'
import type { PublicEvent } from '../contract/event.ts'
import type { PublicJob, PublicSlot } from '../contract/job.ts'
import { deadline } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'
import { formatDuration } from '../model/quantity.ts'
import type { Cli } from './cli.ts'
import type { Progress } from './output/progress.ts'

export const defaultWaitMs = 5 * 60_000

export interface WaitOptions {
  job: string
  withinMs: number
  shown: Progress
}

/** What the watch has said so far of one job. */
export interface JobView {
  job: PublicJob | undefined
  slots: Map<string, PublicSlot>
  allocations: Map<string, PublicAllocation>
}

/**
 * Resolves when the version runs: every copy of a service is healthy and no older one is left; every copy of a batch
 * job runs or has ended well. Throws a Fault that says how far it came.
 */
export async function waitUntilRunning(
  cli: Cli,
  client: Client,
  { job, version, withinMs, shown }: WaitOptions & { version: number },
): Promise<void> {
  let blocked = ''
  await followJob(cli, client, { job, withinMs, shown }, async (view) => {
    const row = view.job
    if (!row) throw new Fault('conflict', `job "${job}" was removed meanwhile`)
    if (row.version > version)
      throw new Fault('conflict', `job "${job}" was changed meanwhile: it is at version ${row.version}`)
    if (row.stopped) throw new Fault('conflict', `job "${job}" was stopped meanwhile`)
    if (row.blocked !== blocked && row.blocked !== '') shown.say(`${job}: ${row.blocked}`, 'busy')
    blocked = row.blocked
    const done = copiesDone(view, version)
    const left = [...view.allocations.values()].filter((each) => isLive(each) && each.version < version).length
    if (row.version === version && done >= row.count && left === 0) return true
    await throwIfFailed(client, view, cli.signal)
    return false
  })
}

/** Resolves when nothing of the job lives any more. */
export async function waitUntilEnded(cli: Cli, client: Client, options: WaitOptions): Promise<void> {
  await followJob(cli, client, options, async ({ job, allocations }) => {
    const live = [...allocations.values()].filter(isLive).length
    if (live > 0) options.shown.show(`${options.job}: ${live} of its allocations still ${live === 1 ? 'runs' : 'run'}`)
    return !job || live === 0
  })
}

/** Follows a job until `isDone`; its warnings and errors are said as they come. */
export async function followJob(
  cli: Cli,
  client: Client,
  { job, withinMs, shown }: WaitOptions,
  isDone: (view: JobView) => Promise<boolean>,
): Promise<JobView> {
  const view: JobView = { job: undefined, slots: new Map(), allocations: new Map() }
  using limit = deadline(cli.clock, withinMs, cli.signal)
  let ready = false
  const tables = ['jobs', 'slots', 'allocations', 'events'] as const
  for await (const event of client.watch({ tables: [...tables], job }, { signal: limit.signal })) {
    if (event.type === 'reset') ready = false
    take(view, event, job)
    if (event.type === 'ready') ready = true
    if (!ready) continue
    if (event.type === 'change' && event.table === 'events' && event.row) sayEvent(shown, event.row)
    if (await isDone(view)) return view
    if (view.job && !view.job.stopped) shown.show(howFar(view))
  }
  cli.signal.throwIfAborted()
  throw new Fault(
    'exhausted',
    `waited ${formatDuration(withinMs)} in vain: ${howFar(view)}; "tutti status ${job}" says more`,
  )
}

function take(view: JobView, event: WatchEvent, job: string): void {
  if (event.type === 'reset') {
    view.job = undefined
    view.slots.clear()
    view.allocations.clear()
  }
  if (event.type !== 'row' && event.type !== 'change') return
  const { key } = event
  if (event.table === 'jobs' && key === job) view.job = event.row ?? undefined
  else if (event.table === 'slots') put(view.slots, key, event.row)
  else if (event.table === 'allocations') put(view.allocations, key, event.row)
}

function put<T>(rows: Map<string, T>, key: string, row: T | null): void {
  if (row === null) rows.delete(key)
  else rows.set(key, row)
}

/** What another event says as well, with what is done about it. */
const saidElsewhere: ReadonlySet<string> = new Set([
  'task.prepare-failed',
  'task.start-failed',
  'task.exited',
  'task.failed',
])

function sayEvent(shown: Progress, { level, kind, message, allocation }: PublicEvent): void {
  if (level === 'info' || saidElsewhere.has(kind)) return
  shown.say(allocation ? `${allocation}: ${message}` : message, level === 'error' ? 'bad' : 'busy')
}

/** Copies that are as they should be. */
function copiesDone({ job, slots, allocations }: JobView, version: number): number {
  let done = 0
  for (const slot of slots.values()) {
    if (job && slot.index >= job.count) continue
    const newest = slot.allocation === null ? undefined : allocations.get(slot.allocation)
    const runs = newest !== undefined && newest.version >= version && newest.phase === 'running'
    if (job?.type === 'batch' ? slot.completed || runs || newest?.phase === 'complete' : runs && newest.healthy)
      done += 1
  }
  return done
}

/** A copy of this version that is not tried again will not come up, however long one waits. */
async function throwIfFailed(client: Client, { job, slots, allocations }: JobView, signal: AbortSignal): Promise<void> {
  for (const slot of slots.values()) {
    const newest = slot.allocation === null ? undefined : allocations.get(slot.allocation)
    if (!job || newest?.phase !== 'failed' || newest.version !== job.version) continue
    const { spec } = await client.getJob({ job: job.name }, { signal })
    const { rescheduleAttempts } = await import('../model/job.ts')
    if (slot.failed <= rescheduleAttempts(spec)) continue
    throw new Fault('exhausted', `copy ${slot.index} of job "${job.name}" has failed: ${failureOf(newest)}`)
  }
}

/** Why an allocation failed, as well as it is known. */
export function failureOf(allocation: PublicAllocation): string {
  if (allocation.message) return allocation.message
  for (const [name, task] of Object.entries(allocation.tasks)) {
    if (task.message) return `task "${name}": ${task.message}`
    if (task.exitCode !== undefined && task.exitCode !== 0) return `task "${name}" exited with ${task.exitCode}`
  }
  return `it is ${allocation.phase}`
}

function howFar(view: JobView): string {
  const { job, allocations } = view
  if (!job) return 'waiting for the job'
  const live = [...allocations.values()].filter(isLive)
  const parts = [
    `${job.name}: ${copiesDone(view, job.version)} of ${job.count} ${job.type === 'service' ? 'healthy' : 'started'}`,
  ]
  for (const phase of ['pending', 'preparing'] as const) {
    const count = live.filter((allocation) => allocation.phase === phase).length
    if (count > 0) parts.push(`${count} ${phase}`)
  }
  const old = live.filter((allocation) => allocation.version < job.version).length
  if (old > 0) parts.push(`${old} still at an earlier version`)
  const news = live.find(({ phase, message }) => message && phase !== 'running')?.message
  if (news) parts.push(news)
  if (job.blocked) parts.push(job.blocked)
  return parts.join(', ')
}

export function isLive({ phase }: Pick<PublicAllocation, 'phase'>): boolean {
  return phase === 'pending' || phase === 'preparing' || phase === 'running'
}
