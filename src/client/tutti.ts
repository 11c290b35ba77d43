/** What the package exports to programs: the typed client, and the helper for job files. */

export { Fault, type FaultCode } from '../model/fault.ts'
export type { JobInput } from '../model/job.ts'
export { type Client, type ClientOptions, createClient } from './client.ts'
export { job } from './job.ts'
