import { allocationEndpoints } from './allocation.ts'
import { auditEndpoints } from './audit.ts'
import { buildEndpoints } from './build.ts'
import { enrollEndpoints } from './enroll.ts'
import { eventEndpoints } from './event.ts'
import { jobEndpoints } from './job.ts'
import { nodeEndpoints } from './node.ts'
import { sandboxEndpoints } from './sandbox.ts'
import { sandboxGuestEndpoints } from './sandbox-guest.ts'
import { systemEndpoints } from './system.ts'
import { templateEndpoints } from './template.ts'
import { tokenEndpoints } from './token.ts'
import { watchEndpoints } from './watch.ts'

/** The whole API by name: one file per resource, this table for those who read it all. */
export const endpoints = {
  ...jobEndpoints,
  ...allocationEndpoints,
  ...nodeEndpoints,
  ...sandboxEndpoints,
  ...sandboxGuestEndpoints,
  ...templateEndpoints,
  ...buildEndpoints,
  ...eventEndpoints,
  ...auditEndpoints,
  ...watchEndpoints,
  ...tokenEndpoints,
  ...enrollEndpoints,
  ...systemEndpoints,
} as const
export type Endpoints = typeof endpoints
export type EndpointName = keyof Endpoints
/** Those that are a WebSocket. */
export type SocketName = {
  [N in EndpointName]: Endpoints[N] extends { stream: 'websocket' } ? N : never
}[EndpointName]
