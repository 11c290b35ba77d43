import { z } from 'zod'
import { FileEntry, FileEvent, GuestMetrics, GuestProcess } from '../model/guest.ts'
import { signalNames } from '../model/job.ts'
import { endpoint } from './endpoint.ts'
import { count, Flag } from './fields.ts'
import { routes } from './routes.ts'
import { maxProcessId, Path, Port, sandboxParams as params, reaching } from './sandbox.ts'

/** What `watchSandboxFiles` sends as `change`. */
export const watchedFile = FileEvent

const processParams = params.extend({ pid: count(1, maxProcessId) })

/** The ways into a sandbox. Each resumes a paused one that was made with `autoResume`. */
export const sandboxGuestEndpoints = {
  sandboxMetrics: endpoint({
    ...routes.sandboxMetrics,
    role: 'compute:read',
    summary: 'Says what a sandbox uses now.',
    params,
    answer: z.object({ metrics: GuestMetrics }),
    faults: reaching,
  }),
  sandboxProcesses: endpoint({
    ...routes.sandboxProcesses,
    role: 'compute:connect',
    summary: 'Lists commands that were started in a sandbox.',
    params,
    answer: z.object({ processes: z.array(GuestProcess) }),
    faults: reaching,
  }),
  attachSandbox: endpoint({
    ...routes.attachSandbox,
    role: 'compute:connect',
    summary: 'Joins a command in a sandbox again, over a WebSocket whose first message is a SandboxAttachRequest.',
    params,
    faults: reaching,
  }),
  signalSandboxProcess: endpoint({
    ...routes.signalSandboxProcess,
    role: 'compute:connect',
    summary: 'Sends a signal to a command in a sandbox, and to what it started.',
    params: processParams,
    body: z.strictObject({ signal: z.enum(signalNames).default('SIGTERM') }),
    answer: z.object({}),
    faults: reaching,
  }),
  writeSandboxInput: endpoint({
    ...routes.writeSandboxInput,
    role: 'compute:connect',
    summary: 'Writes to the standard input of a command in a sandbox, also while somebody is attached to it.',
    params: processParams,
    body: z.strictObject({
      data: z
        .string()
        .max(2 ** 18)
        .default(''),
      encoding: z.enum(['utf8', 'base64']).default('utf8'),
      end: z.boolean().default(false).meta({ description: 'Nothing comes after it.' }),
    }),
    answer: z.object({}),
    faults: reaching,
  }),
  sandboxConsole: endpoint({
    ...routes.sandboxConsole,
    role: 'compute:read',
    summary: 'What the machine of a sandbox wrote on its console so far.',
    params,
    faults: reaching,
  }),
  execSandbox: endpoint({
    ...routes.execSandbox,
    role: 'compute:connect',
    summary: 'Runs a command in a sandbox, over a WebSocket whose first message is a SandboxExecRequest.',
    params,
    faults: reaching,
  }),
  forwardSandbox: endpoint({
    ...routes.forwardSandbox,
    role: 'compute:connect',
    summary: "A connection to a TCP port on a sandbox's loopback: binary messages are its bytes, both ways.",
    params,
    query: z.strictObject({ port: Port }),
    faults: reaching,
  }),
  readSandboxFile: endpoint({
    ...routes.readSandboxFile,
    role: 'compute:connect',
    summary: 'Streams a file of a sandbox.',
    params,
    query: z.strictObject({
      path: Path,
      offset: count(0, Number.MAX_SAFE_INTEGER).optional(),
      length: count(0, Number.MAX_SAFE_INTEGER).optional(),
    }),
    faults: reaching,
  }),
  writeSandboxFile: endpoint({
    ...routes.writeSandboxFile,
    role: 'compute:connect',
    summary: 'Writes a file of a sandbox, whole or not at all; directories above it are made.',
    params,
    query: z.strictObject({
      path: Path,
      mode: z
        .union([
          z.int(),
          z
            .string()
            .regex(/^[0-7]{3,4}$/, 'must be octal, such as 755')
            .transform((text) => Number.parseInt(text, 8)),
        ])
        .pipe(z.int().min(0).max(0o7777))
        .optional()
        .meta({ description: 'Octal as text.' }),
      user: z.string().max(64).optional().meta({ description: 'Whose it is to be.' }),
    }),
    answer: z.object({}),
    faults: reaching,
  }),
  removeSandboxFile: endpoint({
    ...routes.removeSandboxFile,
    role: 'compute:connect',
    summary: 'Removes a file, or a directory with everything below it.',
    params,
    query: z.strictObject({ path: Path }),
    faults: reaching,
  }),
  statSandboxFile: endpoint({
    ...routes.statSandboxFile,
    role: 'compute:connect',
    summary: 'Says what is at a path.',
    params,
    query: z.strictObject({ path: Path }),
    answer: z.object({ entry: FileEntry }),
    faults: reaching,
  }),
  listSandboxFiles: endpoint({
    ...routes.listSandboxFiles,
    role: 'compute:connect',
    summary: 'Lists a directory.',
    params,
    query: z.strictObject({ path: Path.default('.') }),
    answer: z.object({ entries: z.array(FileEntry) }),
    faults: reaching,
  }),
  makeSandboxDirectory: endpoint({
    ...routes.makeSandboxDirectory,
    role: 'compute:connect',
    summary: 'Makes a directory, and those above it.',
    params,
    body: z.strictObject({ path: Path }),
    faults: reaching,
  }),
  moveSandboxFile: endpoint({
    ...routes.moveSandboxFile,
    role: 'compute:connect',
    summary: 'Moves a file or a directory.',
    params,
    body: z.strictObject({ path: Path, to: Path }),
    faults: reaching,
  }),
  watchSandboxFiles: endpoint({
    ...routes.watchSandboxFiles,
    role: 'compute:connect',
    summary: 'Streams what changes in a directory, as server-sent events.',
    says: 'Events named ready (the watch has begun), change (FileEvent), fault (Problem).',
    params,
    query: z.strictObject({ path: Path.default('.'), recursive: Flag.default(false) }),
    faults: reaching,
  }),
}
