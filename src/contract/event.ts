import { z } from 'zod'
import { Name } from '../model/ids.ts'
import type { Event } from '../model/records.ts'
import { endpoint } from './endpoint.ts'
import { count, Index, Reference, Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicEvent = z
  .object({
    id: z.string(),
    at: Time,
    level: z.enum(['info', 'warning', 'error']),
    kind: z.string().meta({ description: 'A dotted word such as `allocation.failed`.' }),
    message: z.string(),
    job: z.string().optional(),
    allocation: z.string().optional(),
    task: z.string().optional(),
    node: z.string().optional().meta({ description: 'Its id.' }),
  })
  .meta({ id: 'Event' })
export type PublicEvent = z.infer<typeof PublicEvent>

export function publicEvent({ id, at, level, kind, message, job, allocation, task, node }: Event): PublicEvent {
  return {
    id,
    at,
    level,
    kind,
    message,
    ...(job === undefined ? {} : { job }),
    ...(allocation === undefined ? {} : { allocation }),
    ...(task === undefined ? {} : { task }),
    ...(node === undefined ? {} : { node }),
  }
}

export const eventEndpoints = {
  listEvents: endpoint({
    ...routes.listEvents,
    role: 'compute:read',
    summary: 'Lists what happened, oldest first: the newest `limit`, or those that follow `after`.',
    query: z.strictObject({
      job: Name.optional(),
      node: Reference.optional(),
      allocation: Reference.optional(),
      after: z.string().max(100).optional().meta({ description: 'Id of the last event that was seen.' }),
      limit: count(1, 10_000).default(200),
    }),
    answer: z.object({ events: z.array(PublicEvent), index: Index }),
    faults: ['not_found'],
  }),
}
