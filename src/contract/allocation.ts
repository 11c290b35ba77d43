import { z } from 'zod'
import { type Allocation, allocationPhases, TaskStatus } from '../model/allocation.ts'
import { AllocationId, Name, NodeId } from '../model/ids.ts'
import { signalNames } from '../model/job.ts'
import { endpoint } from './endpoint.ts'
import { count, Flag, Index, pageAnswer, pageQuery, Reference, Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicAllocation = z
  .object({
    id: AllocationId,
    job: Name,
    version: z.int(),
    slot: z.int().nonnegative(),
    node: NodeId,
    generation: z.int().nonnegative(),
    desired: z.enum(['run', 'stop']),
    reason: z.string().optional().meta({ description: 'Why it was asked to stop.' }),
    ports: z.record(z.string(), z.int()),
    phase: z.enum(allocationPhases),
    healthy: z.boolean(),
    healthyAt: Time.optional(),
    tasks: z.record(z.string(), z.object(TaskStatus.shape)),
    message: z.string().optional(),
    createdAt: Time,
    changedAt: Time,
  })
  .meta({ id: 'Allocation' })
export type PublicAllocation = z.infer<typeof PublicAllocation>

/** Everything of an allocation may be seen; stated field by field so that a new field is a decision. */
export function publicAllocation(row: Allocation): PublicAllocation {
  return {
    id: row.id,
    job: row.job,
    version: row.version,
    slot: row.slot,
    node: row.node,
    generation: row.generation,
    desired: row.desired,
    ...(row.reason === undefined ? {} : { reason: row.reason }),
    ports: row.ports,
    phase: row.phase,
    healthy: row.healthy,
    ...(row.healthyAt === undefined ? {} : { healthyAt: row.healthyAt }),
    tasks: row.tasks,
    ...(row.message === undefined ? {} : { message: row.message }),
    createdAt: row.createdAt,
    changedAt: row.changedAt,
  }
}

const params = z.strictObject({ allocation: Reference })

export const TaskStats = z.object({
  memory: z.number().nonnegative().meta({ description: 'Bytes.' }),
  cpuMs: z.number().nonnegative().meta({ description: 'Ms of CPU used since the start.' }),
  pids: z.int().nonnegative(),
})
export type TaskStats = z.infer<typeof TaskStats>

/**
 * The first message of the client on an exec WebSocket. The server's first is `ExecAnswer`; then each binary message is
 * one frame of `wire/frames.ts` without its length: a byte kind, then the payload. With `keep`, the client may go on with
 * another request when the frame with the exit has come.
 */
export const ExecRequest = z
  .strictObject({
    task: Name.optional().meta({ description: 'By default the first main task.' }),
    command: z.array(z.string().max(65_536)).min(1).max(1024),
    env: z.record(z.string().max(255), z.string().max(32_768)).default({}),
    cwd: z.string().max(4096).optional(),
    user: z.string().max(64).optional(),
    terminal: z
      .strictObject({ columns: z.int().min(1).max(10_000), rows: z.int().min(1).max(10_000) })
      .optional()
      .meta({ description: 'Give the command a terminal of this size; stderr then comes with stdout.' }),
    keep: z.boolean().default(false).meta({
      description: 'Keep the socket open for another request when the command has ended.',
    }),
  })
  .meta({ id: 'ExecRequest' })
export type ExecRequest = z.infer<typeof ExecRequest>

export const allocationEndpoints = {
  listAllocations: endpoint({
    ...routes.listAllocations,
    role: 'compute:read',
    summary: 'Lists allocations by id.',
    query: z.strictObject({
      job: Name.optional(),
      node: Reference.optional(),
      live: Flag.optional().meta({ description: 'Only those that have not ended, or only those that have.' }),
      id: z
        .string()
        .regex(/^[0-9a-z]{1,16}$/)
        .optional()
        .meta({ description: 'Only those whose id begins so.' }),
      ...pageQuery,
    }),
    answer: z.object({ allocations: z.array(PublicAllocation), ...pageAnswer }),
    faults: [],
  }),
  getAllocation: endpoint({
    ...routes.getAllocation,
    role: 'compute:read',
    summary: 'Shows an allocation.',
    params,
    answer: z.object({ allocation: PublicAllocation, nodeName: z.string(), index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  stopAllocation: endpoint({
    ...routes.stopAllocation,
    role: 'compute:write',
    summary: 'Ends an allocation; its slot gets a new one while the job wants the copy.',
    params,
    answer: z.object({ allocation: AllocationId, index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  restartAllocation: endpoint({
    ...routes.restartAllocation,
    role: 'compute:write',
    summary: 'Restarts the tasks of an allocation in place.',
    params,
    answer: z.object({ allocation: AllocationId, index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  signalAllocation: endpoint({
    ...routes.signalAllocation,
    role: 'compute:connect',
    summary: 'Sends a signal to a task, or to all running tasks of an allocation.',
    params,
    body: z.strictObject({ signal: z.enum(signalNames), task: Name.optional() }),
    answer: z.object({ allocation: AllocationId }),
    faults: ['not_found', 'conflict'],
  }),
  allocationStats: endpoint({
    ...routes.allocationStats,
    role: 'compute:read',
    summary: 'Says what the tasks of an allocation use now.',
    params,
    answer: z.object({ tasks: z.record(z.string(), TaskStats) }),
    faults: ['not_found', 'conflict'],
  }),
  allocationLogs: endpoint({
    ...routes.allocationLogs,
    role: 'compute:read',
    summary: 'Streams the output of a task; of an ended one too, as long as its node keeps it.',
    params,
    query: z.strictObject({
      task: Name.optional().meta({ description: 'By default the first main task.' }),
      stream: z.enum(['stdout', 'stderr', 'both']).default('both').meta({
        description: 'With `both` the answer is frames: a byte kind (1 stdout, 2 stderr, 7 fault), length, payload.',
      }),
      follow: Flag.default(false).meta({ description: 'Go on as the task writes, until it has ended.' }),
      tail: count(0, 1_000_000).optional().meta({ description: 'Start this many lines before the end.' }),
    }),
    faults: ['not_found', 'conflict'],
  }),
  execAllocation: endpoint({
    ...routes.execAllocation,
    role: 'compute:connect',
    summary: 'Runs a command inside a task, over a WebSocket whose first message is an ExecRequest.',
    params,
    faults: ['not_found', 'conflict'],
  }),
}
