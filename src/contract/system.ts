import { z } from 'zod'
import { endpoint } from './endpoint.ts'
import { Index, Time } from './fields.ts'
import { routes } from './routes.ts'

export const Status = z
  .object({
    name: z.string().meta({ description: 'Name of the cluster.' }),
    version: z.string().meta({ description: 'Of Tutti.' }),
    index: Index,
    startedAt: Time,
    now: Time,
    leader: z.object({ name: z.string(), self: z.boolean() }),
    counts: z.record(z.string(), z.int()).meta({
      description: '`jobs`, `allocations`, `live`, `nodes`, `ready`: how many there are.',
    }),
    you: z.object({ name: z.string(), roles: z.array(z.string()) }).meta({ description: 'Whose token asked.' }),
  })
  .meta({ id: 'Status' })
export type Status = z.infer<typeof Status>

export const systemEndpoints = {
  health: endpoint({
    ...routes.health,
    role: 'public',
    summary: 'Answers when the control plane can serve; says nothing else.',
    answer: z.object({ ok: z.literal(true) }),
    faults: [],
  }),
  status: endpoint({
    ...routes.status,
    role: 'compute:read',
    summary: 'Says what the control plane is and holds.',
    answer: Status,
    faults: [],
  }),
  openapi: endpoint({
    ...routes.openapi,
    role: 'public',
    summary: 'This document.',
    answer: z.record(z.string(), z.unknown()),
    faults: [],
  }),
  metrics: endpoint({
    ...routes.metrics,
    role: 'admin:read',
    summary: 'Metrics in the Prometheus text format.',
    faults: [],
  }),
}
