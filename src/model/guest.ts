import { z } from 'zod'

/** What a guest says of its files, its processes and itself: the same words on the wire and in the API. */

export const FileEntry = z
  .object({
    name: z.string().max(4096),
    type: z.enum(['file', 'directory', 'link', 'other']),
    size: z.number().nonnegative().meta({ description: 'Bytes.' }),
    mode: z.int().nonnegative(),
    uid: z.int().nonnegative(),
    gid: z.int().nonnegative(),
    changedAt: z.number().meta({ description: 'Milliseconds since 1970-01-01 UTC.' }),
    target: z.string().max(4096).optional().meta({ description: 'Where a link points.' }),
  })
  .meta({ id: 'FileEntry' })
export type FileEntry = z.infer<typeof FileEntry>

export const FileEvent = z
  .object({ kind: z.enum(['created', 'changed', 'removed', 'moved']), path: z.string().max(8192) })
  .meta({ id: 'FileEvent' })
export type FileEvent = z.infer<typeof FileEvent>

export const GuestProcess = z
  .object({
    pid: z.int().nonnegative(),
    command: z.array(z.string()).max(10_000),
    startedAt: z.number(),
    running: z.boolean(),
    code: z.int().nullable(),
  })
  .meta({ id: 'GuestProcess' })
export type GuestProcess = z.infer<typeof GuestProcess>

export const GuestMetrics = z
  .object({
    memoryTotal: z.number().nonnegative().meta({ description: 'Bytes.' }),
    memoryUsed: z.number().nonnegative().meta({ description: 'Bytes.' }),
    diskTotal: z.number().nonnegative().meta({ description: 'Bytes.' }),
    diskUsed: z.number().nonnegative().meta({ description: 'Bytes.' }),
    cpus: z.number().nonnegative(),
    cpuMs: z.number().nonnegative().meta({ description: 'Ms of CPU used since boot, all processors.' }),
    now: z.number().meta({ description: "The guest's clock." }),
    processes: z.number().nonnegative(),
  })
  .meta({ id: 'GuestMetrics' })
export type GuestMetrics = z.infer<typeof GuestMetrics>
