import { allocationEndpoints } from './allocation.ts'
import { auditEndpoints } from './audit.ts'
import { enrollEndpoints } from './enroll.ts'
import { eventEndpoints } from './event.ts'
import { jobEndpoints } from './job.ts'
import { nodeEndpoints } from './node.ts'
import { systemEndpoints } from './system.ts'
import { tokenEndpoints } from './token.ts'
import { watchEndpoints } from './watch.ts'

/** The whole API by name: one file per resource, this table for those who read it all. */
export const endpoints = {
  ...jobEndpoints,
  ...allocationEndpoints,
  ...nodeEndpoints,
  ...eventEndpoints,
  ...auditEndpoints,
  ...watchEndpoints,
  ...tokenEndpoints,
  ...enrollEndpoints,
  ...systemEndpoints,
} as const
export type Endpoints = typeof endpoints
export type EndpointName = keyof Endpoints
