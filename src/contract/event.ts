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
    sandbox: z.string().optional(),
    build: z.string().optional(),
  })
  .meta({ id: 'Event' })
export type PublicEvent = z.infer<typeof PublicEvent>

export function publicEvent(event: Event): PublicEvent {
  const { id, at, level, kind, message, job, allocation, task, node, sandbox, build } = event
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
    ...(sandbox === undefined ? {} : { sandbox }),
    ...(build === undefined ? {} : { build }),
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
      sandbox: z.string().max(16).optional().meta({ description: 'Its id.' }),
      after: z.string().max(100).optional().meta({ description: 'Id of the last event that was seen.' }),
      limit: count(1, 10_000).default(200),
    }),
    answer: z.object({ events: z.array(PublicEvent), index: Index }),
    faults: ['not_found'],
  }),
}
