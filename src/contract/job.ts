import { z } from 'zod'
import { type Allocation, isLive } from '../model/allocation.ts'
import { AllocationId, Name } from '../model/ids.ts'
import { JobSpec, jobTypes } from '../model/job.ts'
import type { Job, JobVersion, Slot } from '../model/records.ts'
import { PublicAllocation } from './allocation.ts'
import { endpoint } from './endpoint.ts'
import { Index, pageAnswer, pageQuery, Time } from './fields.ts'
import { redactSpec } from './redact.ts'
import { routes } from './routes.ts'

/** A spec in an answer: canonical, secrets hidden. A newer control plane may know more keys than this program does. */
export const CanonicalSpec = z
  .custom<JobSpec>((value) => typeof value === 'object' && value !== null && 'tasks' in value, 'must be a job spec')
  .meta({ id: 'CanonicalSpec', description: 'A job spec with sizes in bytes, durations in ms and defaults filled in.' })

export const PublicJob = z
  .object({
    name: Name,
    type: z.enum(jobTypes),
    count: z.int().nonnegative(),
    priority: z.int(),
    version: z.int(),
    stopped: z.boolean().meta({ description: 'Wanted zero times, kept for its history.' }),
    blocked: z.string().meta({ description: 'Why not all copies are placed; empty when they are.' }),
    labels: z.record(z.string(), z.string()),
    createdAt: Time,
    changedAt: Time,
  })
  .meta({ id: 'Job' })
export type PublicJob = z.infer<typeof PublicJob>

export function publicJob({ name, spec, version, stopped, blocked, createdAt, changedAt }: Job): PublicJob {
  const { type, count, priority, labels } = spec
  return { name, type, count, priority, version, stopped, blocked, labels, createdAt, changedAt }
}

export const PublicSlot = z
  .object({
    job: Name,
    index: z.int().nonnegative(),
    allocation: AllocationId.nullable().meta({ description: 'The newest, live or not.' }),
    failures: z
      .array(z.object({ allocation: z.string(), node: z.string(), at: Time, message: z.string() }))
      .meta({ description: 'The last ten since the last healthy run, newest last.' }),
    failed: z.int().nonnegative().meta({ description: 'How many failures there were in all since then.' }),
    notBefore: Time.meta({ description: 'Not tried again before this.' }),
    completed: z.boolean().meta({ description: 'Ended well and not run again in this round.' }),
  })
  .meta({ id: 'Slot' })
export type PublicSlot = z.infer<typeof PublicSlot>

export function publicSlot({ job, index, allocation, failures, failed, notBefore, completedRound }: Slot): PublicSlot {
  return { job, index, allocation, failures, failed, notBefore, completed: completedRound !== null }
}

export const jobStates = ['running', 'starting', 'blocked', 'complete', 'failed', 'stopping', 'stopped'] as const
export type JobState = (typeof jobStates)[number]

/** A job and what became of its copies. */
export const JobSummary = PublicJob.extend({
  state: z.enum(jobStates),
  copies: z
    .object({
      wanted: z.int().nonnegative(),
      live: z.int().nonnegative(),
      healthy: z.int().nonnegative(),
      complete: z.int().nonnegative(),
      failed: z.int().nonnegative().meta({ description: 'Slots whose newest allocation failed or was lost.' }),
      /** Live ones that run an earlier version. */
      old: z.int().nonnegative(),
    })
    .meta({ description: 'Counts of slots.' }),
}).meta({ id: 'JobSummary' })
export type JobSummary = z.infer<typeof JobSummary>

/** A job with what its slots and allocations say of it, in one word and a few numbers. */
export function summarizeJob(job: Job, slots: Iterable<Slot>, allocations: Iterable<Allocation>): JobSummary {
  const rows = new Map([...allocations].map((allocation) => [allocation.id, allocation]))
  const live = [...rows.values()].filter(isLive)
  const copies = {
    wanted: job.stopped ? 0 : job.spec.count,
    live: live.length,
    healthy: live.filter((allocation) => allocation.healthy).length,
    complete: 0,
    failed: 0,
    old: live.filter((allocation) => allocation.version !== job.version).length,
  }
  for (const slot of slots) {
    const newest = slot.allocation === null ? undefined : rows.get(slot.allocation)
    if (slot.completedRound === job.round) copies.complete += 1
    else if (newest && (newest.phase === 'failed' || newest.phase === 'lost')) copies.failed += 1
  }
  return { ...publicJob(job), state: jobState(job, copies), copies }
}

function jobState(job: Job, copies: JobSummary['copies']): JobState {
  if (job.stopped) return copies.live > 0 ? 'stopping' : 'stopped'
  if (job.spec.type === 'batch' && copies.live === 0 && copies.wanted > 0) {
    if (copies.complete >= copies.wanted) return 'complete'
    if (copies.complete + copies.failed >= copies.wanted) return 'failed'
  }
  if (job.blocked !== '') return 'blocked'
  const done = copies.complete + (job.spec.type === 'batch' ? copies.live : copies.healthy)
  return done >= copies.wanted ? 'running' : 'starting'
}

export const PublicJobVersion = z
  .object({ job: Name, version: z.int(), spec: CanonicalSpec, at: Time, by: z.string() })
  .meta({ id: 'JobVersion' })
export type PublicJobVersion = z.infer<typeof PublicJobVersion>

export function publicJobVersion({ job, version, spec, at, by }: JobVersion): PublicJobVersion {
  return { job, version, spec: redactSpec(spec), at, by }
}

const params = z.strictObject({ job: Name })

export const Applied = z
  .object({
    job: Name,
    version: z.int(),
    index: Index,
    changed: z.boolean().meta({ description: 'False: this is what was wanted already.' }),
  })
  .meta({ id: 'Applied' })
export type Applied = z.infer<typeof Applied>

/** What applying a spec would do. */
export const PlanAnswer = z
  .object({
    job: Name,
    /** 0 when there is none yet. */
    version: z.int().nonnegative().meta({ description: 'The version that is current; 0 when there is none yet.' }),
    changes: z
      .array(z.object({ path: z.string(), before: z.unknown().optional(), after: z.unknown().optional() }))
      .meta({ description: 'What differs, by path; without `before` it is new, without `after` it is gone.' }),
    moves: z.object({
      place: z.int().nonnegative(),
      stop: z.int().nonnegative(),
      keep: z.int().nonnegative(),
      nodes: z.record(z.string(), z.int()).meta({ description: 'New allocations by node name.' }),
    }),
    steps: z.array(z.string()).meta({ description: 'One sentence per slot that something would happen to, and why.' }),
    blocked: z.string().meta({ description: 'Why not all copies could be placed; empty when they could.' }),
    index: Index,
  })
  .meta({ id: 'Plan' })
export type PlanAnswer = z.infer<typeof PlanAnswer>

export const jobEndpoints = {
  listJobs: endpoint({
    ...routes.listJobs,
    role: 'compute:read',
    summary: 'Lists jobs by name.',
    query: z.strictObject({ ...pageQuery }),
    answer: z.object({ jobs: z.array(JobSummary), ...pageAnswer }),
    faults: [],
  }),
  getJob: endpoint({
    ...routes.getJob,
    role: 'compute:read',
    summary: 'Shows a job: its newest spec, its slots and its newest allocations.',
    params,
    answer: z.object({
      job: JobSummary,
      spec: CanonicalSpec,
      slots: z.array(PublicSlot),
      allocations: z.array(PublicAllocation).meta({ description: 'The newest of each slot.' }),
      index: Index,
    }),
    faults: ['not_found'],
  }),
  applyJob: endpoint({
    ...routes.applyJob,
    role: 'compute:write',
    summary: 'Makes a spec what is wanted; the same spec again changes nothing. Starts a stopped job again.',
    params,
    body: z.strictObject({
      spec: JobSpec,
      expectVersion: z
        .int()
        .nonnegative()
        .optional()
        .meta({ description: 'Refuse unless the job is at this version; 0: unless there is no such job.' }),
    }),
    answer: Applied,
    faults: ['conflict'],
  }),
  planJob: endpoint({
    ...routes.planJob,
    role: 'compute:read',
    summary: 'Says what applying a spec would change and do, and does nothing.',
    body: z.strictObject({ spec: JobSpec }),
    answer: PlanAnswer,
    faults: [],
  }),
  stopJob: endpoint({
    ...routes.stopJob,
    role: 'compute:write',
    summary: 'Wants a job zero times; its history stays.',
    params,
    answer: Applied,
    faults: ['not_found'],
  }),
  restartJob: endpoint({
    ...routes.restartJob,
    role: 'compute:write',
    summary: 'Restarts the tasks of a job; finished copies of a batch job run again.',
    params,
    answer: Applied,
    faults: ['not_found', 'conflict'],
  }),
  revertJob: endpoint({
    ...routes.revertJob,
    role: 'compute:write',
    summary: 'Makes an earlier spec what is wanted, as a new version.',
    params,
    body: z.strictObject({
      version: z.int().positive().optional().meta({ description: 'By default the one before the current.' }),
    }),
    answer: Applied,
    faults: ['not_found'],
  }),
  jobHistory: endpoint({
    ...routes.jobHistory,
    role: 'compute:read',
    summary: 'Lists the kept versions of a job, newest first.',
    params,
    answer: z.object({ versions: z.array(PublicJobVersion), index: Index }),
    faults: ['not_found'],
  }),
  jobAllocations: endpoint({
    ...routes.jobAllocations,
    role: 'compute:read',
    summary: 'Lists all kept allocations of a job, newest first.',
    params,
    answer: z.object({ allocations: z.array(PublicAllocation), index: Index }),
    faults: ['not_found'],
  }),
  purgeJob: endpoint({
    ...routes.purgeJob,
    role: 'compute:write',
    summary: 'Removes a stopped job with its history.',
    params,
    faults: ['not_found', 'conflict'],
  }),
}
