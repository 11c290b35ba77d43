/** What the package exports to programs: sandboxes and templates, the typed client, and the helper for job files. */

export { Fault, type FaultCode } from '../model/fault.ts'
export type { FileEntry, FileEvent, GuestMetrics, GuestProcess } from '../model/guest.ts'
export type { JobInput } from '../model/job.ts'
export type { Egress } from '../model/sandbox.ts'
export { BuildFault } from './build-fault.ts'
export { type Client, type ClientOptions, createClient } from './client.ts'
export { type ConnectOptions, connect, Sandboxes, Templates, type Tutti } from './connect.ts'
export type { Execution } from './exec.ts'
export { job } from './job.ts'
export { type Command, type Forwarded, type RunOptions, type RunResult, Sandbox, SandboxFiles } from './sandbox.ts'
