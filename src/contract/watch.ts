import { z } from 'zod'
import { Name } from '../model/ids.ts'
import { keyOf, type Tables } from '../model/records.ts'
import { PublicAllocation, publicAllocation } from './allocation.ts'
import { PublicBuild, publicBuild } from './build.ts'
import { endpoint } from './endpoint.ts'
import { PublicEvent, publicEvent } from './event.ts'
import { count, Index, list } from './fields.ts'
import { PublicJob, PublicSlot, publicJob, publicSlot } from './job.ts'
import { PublicNode, publicNode } from './node.ts'
import { routes } from './routes.ts'
import { PublicSandbox, publicSandbox } from './sandbox.ts'
import { PublicTemplate, publicTemplate } from './template.ts'

/** What may be watched, and what its rows look like from outside. */
export const watchTables = [
  'jobs',
  'allocations',
  'nodes',
  'slots',
  'events',
  'sandboxes',
  'templates',
  'builds',
] as const
export type WatchTable = (typeof watchTables)[number]

export const watchRows = {
  jobs: PublicJob,
  allocations: PublicAllocation,
  nodes: PublicNode,
  slots: PublicSlot,
  events: PublicEvent,
  sandboxes: PublicSandbox,
  templates: PublicTemplate,
  builds: PublicBuild,
} as const satisfies Record<WatchTable, z.ZodType>

/** How a stored row is shown; the server maps every watched row through this. */
export const publicRow: { [T in WatchTable]: (row: Tables[T]) => z.infer<(typeof watchRows)[T]> } = {
  jobs: publicJob,
  allocations: publicAllocation,
  nodes: publicNode,
  slots: publicSlot,
  events: publicEvent,
  sandboxes: publicSandbox,
  templates: publicTemplate,
  builds: publicBuild,
}

/** Which job a row belongs to, for `job=`; nodes and events without one belong to none. */
export const jobOf: { [T in WatchTable]: (row: Tables[T]) => string | undefined } = {
  jobs: keyOf.jobs,
  allocations: (row) => row.job,
  nodes: () => undefined,
  slots: (row) => row.job,
  events: (row) => row.job,
  sandboxes: () => undefined,
  templates: () => undefined,
  builds: () => undefined,
}

type RowOf<T extends WatchTable> = T extends WatchTable
  ? { index: number; table: T; key: string; row: z.infer<(typeof watchRows)[T]> }
  : never
type ChangeOf<T extends WatchTable> = T extends WatchTable
  ? { index: number; table: T; key: string; row: z.infer<(typeof watchRows)[T]> | null }
  : never

const Row = z
  .record(z.string(), z.unknown())
  .meta({ description: 'Shaped by its table: a Job, Allocation, Node, Slot, Event, Sandbox, Template or Build.' })

/** `snapshot-row`: one row of the state that the watch begins with. */
export const SnapshotRow = z
  .object({ index: Index, table: z.enum(watchTables), key: z.string(), row: Row })
  .meta({ id: 'SnapshotRow' })
export type SnapshotRow = RowOf<WatchTable>

/** `snapshot-end`: the snapshot is complete; changes follow from this index. */
export const SnapshotEnd = z.object({ index: Index }).meta({ id: 'SnapshotEnd' })
export type SnapshotEnd = z.infer<typeof SnapshotEnd>

/** `change`: one row as a commit left it; null when it is gone. A commit of several changes sends several of these. */
export const WatchChange = z
  .object({ index: Index, table: z.enum(watchTables), key: z.string(), row: Row.nullable() })
  .meta({ id: 'WatchChange' })
export type WatchChange = ChangeOf<WatchTable>

/**
 * The event names of the stream; `fault` (a Problem) ends it. `change` and `snapshot-end` have their index as id: who
 * was cut off in the middle of a commit asks again from one index earlier, since a row may come twice.
 */
export const watchEvents = {
  'snapshot-row': SnapshotRow,
  'snapshot-end': SnapshotEnd,
  change: WatchChange,
} as const

export const watchEndpoints = {
  watch: endpoint({
    ...routes.watch,
    role: 'compute:read',
    summary: 'Streams a snapshot and then every change, as server-sent events.',
    query: z.strictObject({
      tables: list(watchTables)
        .default([...watchTables])
        .meta({ description: 'A list such as `jobs,allocations`.' }),
      job: Name.optional().meta({ description: 'Only rows of this job; what belongs to no job is then left out.' }),
      from: count(0, Number.MAX_SAFE_INTEGER).optional().meta({
        description:
          'Only changes after this index, without a snapshot. A fault `exhausted` when they are not kept any more.',
      }),
    }),
    faults: ['exhausted'],
  }),
}
