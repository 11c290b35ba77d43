import { z } from 'zod'
import type { AuditRecord } from '../model/records.ts'
import { endpoint } from './endpoint.ts'
import { count, Index, Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicAudit = z
  .object({
    id: z.string(),
    at: Time,
    by: z.string().meta({ description: 'Name of the service account.' }),
    action: z.string().meta({ description: 'A dotted word such as `job.apply`.' }),
    subject: z.string(),
  })
  .meta({ id: 'Audit' })
export type PublicAudit = z.infer<typeof PublicAudit>

export function publicAudit({ id, at, by, action, subject }: AuditRecord): PublicAudit {
  return { id, at, by, action, subject }
}

export const auditEndpoints = {
  listAudit: endpoint({
    ...routes.listAudit,
    role: 'admin:read',
    summary: 'Lists who did what, oldest first: the newest `limit`, or those that follow `after`.',
    query: z.strictObject({
      after: z.string().max(100).optional().meta({ description: 'Id of the last record that was seen.' }),
      limit: count(1, 10_000).default(200),
    }),
    answer: z.object({ audit: z.array(PublicAudit), index: Index }),
    faults: [],
  }),
}
