import { z } from 'zod'
import { BuildId, Name, NodeId, SandboxId } from '../model/ids.ts'
import { Egress, type Sandbox, sandboxPhases, timeoutActions } from '../model/sandbox.ts'
import { PublicBuild } from './build.ts'
import { endpoint } from './endpoint.ts'
import { count, Index, pageAnswer, pageQuery, Reference, Tag, Time } from './fields.ts'
import { Problem } from './problem.ts'
import { routes } from './routes.ts'

export const PublicSandbox = z
  .object({
    id: SandboxId,
    phase: z.enum(sandboxPhases),
    reason: z.string().optional().meta({ description: 'Why it is where it is, when that is worth saying.' }),
    node: NodeId,
    template: z.string().nullable(),
    build: BuildId.meta({ description: 'What it was made from, or was last paused to.' }),
    parent: SandboxId.nullable().meta({ description: 'The sandbox that it is a fork of.' }),
    name: z.string().optional(),
    metadata: z.record(z.string(), z.string()),
    cpus: z.int(),
    memoryMiB: z.int(),
    reserved: z.object({ memory: z.number(), cpuMHz: z.number() }).meta({ description: 'On its node, while it runs.' }),
    timeoutMs: z.int().nullable(),
    expiresAt: Time.nullable().meta({
      description: 'When its time is up; null while it is paused or without a limit.',
    }),
    onTimeout: z.enum(timeoutActions),
    autoResume: z.boolean(),
    egress: Egress,
    user: z.string().optional(),
    cwd: z.string().optional(),
    pausedBuild: BuildId.nullable().meta({ description: 'Where it goes on from.' }),
    createdAt: Time,
    changedAt: Time,
    by: z.string(),
  })
  .meta({ id: 'Sandbox' })
export type PublicSandbox = z.infer<typeof PublicSandbox>

export function publicSandbox(row: Sandbox): PublicSandbox {
  const { epoch: _epoch, egressPending: _pending, ...shown } = row
  return shown
}

const Metadata = z
  .record(z.string().min(1).max(255), z.string().max(4096))
  .refine((entries) => Object.keys(entries).length <= 50, 'at most 50 entries')
const Env = z
  .record(z.string().min(1).max(255), z.string().max(32_768))
  .refine((entries) => Object.keys(entries).length <= 1000, 'at most 1000 variables')
const day = 86_400_000
const TimeoutMs = z
  .int()
  .min(1000)
  .max(366 * day)
  .nullable()
  .meta({ description: 'How long it may run from each start; null: for ever.' })

/** A template, an alias, either with a tag, or the id of a build. */
export const From = z
  .string()
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$/,
    'must be the name of a template such as "base" or "base:v2", or the id of a build',
  )
  .meta({ description: 'A template or an alias of one, either with a tag, or the id of a build.' })
const Path = z.string().min(1).max(4096).meta({ description: 'In the sandbox; relative to its working directory.' })
const Port = count(1, 65_535)

export const CreateSandbox = z
  .strictObject({
    template: From.default('base'),
    node: Reference.optional().meta({ description: 'Only on this node.' }),
    name: Name.optional(),
    metadata: Metadata.default({}),
    env: Env.default({}).meta({
      description:
        'For every command, wherever it runs. Never shown, in no snapshot, and forgotten when the sandbox is over.',
    }),
    user: z.string().max(64).optional().meta({ description: 'Who runs commands that name nobody.' }),
    cwd: z.string().max(4096).optional(),
    cpuMHz: z
      .int()
      .nonnegative()
      .max(10 ** 7)
      .default(0)
      .meta({ description: 'To be reserved.' }),
    timeoutMs: TimeoutMs.default(300_000),
    onTimeout: z.enum(timeoutActions).default('kill'),
    autoResume: z.boolean().default(false).meta({ description: 'Resumed by whoever wants to get in.' }),
    egress: Egress.default({ mode: 'deny' }),
  })
  .meta({ id: 'CreateSandbox' })
export type CreateSandbox = z.input<typeof CreateSandbox>

/** The first message of the client on a sandbox's exec WebSocket; then as with an allocation's. */
export const SandboxExecRequest = z
  .strictObject({
    command: z
      .union([z.string().min(1).max(65_536), z.array(z.string().max(65_536)).min(1).max(1024)])
      .meta({ description: 'A program with its arguments, or a line for `/bin/sh -c`.' }),
    env: Env.default({}),
    cwd: z.string().max(4096).optional(),
    user: z.string().max(64).optional(),
    terminal: z
      .strictObject({ columns: z.int().min(1).max(10_000), rows: z.int().min(1).max(10_000) })
      .optional()
      .meta({ description: 'Give the command a terminal of this size; stderr then comes with stdout.' }),
    detached: z.boolean().default(false).meta({ description: 'It goes on when the WebSocket is closed.' }),
    stdin: z.boolean().default(true).meta({ description: 'False: its standard input is empty.' }),
    keep: z.boolean().default(false).meta({
      description: 'Keep the socket open for another request when the command has ended.',
    }),
  })
  .meta({ id: 'SandboxExecRequest' })
export type SandboxExecRequest = z.infer<typeof SandboxExecRequest>

/** As many as Linux may have. */
export const maxProcessId = 4_194_304

/** The first message of the client on a sandbox's attach WebSocket; then as with exec. */
export const SandboxAttachRequest = z
  .strictObject({
    pid: z.int().min(1).max(maxProcessId).meta({ description: 'As `started` said, or the list of processes.' }),
    from: z.int().min(0).max(Number.MAX_SAFE_INTEGER).default(0).meta({
      description: 'Where in all that it ever wrote to begin. The last MiB is kept; a later place is its end.',
    }),
    keep: z.boolean().default(false).meta({
      description: 'Keep the socket open for another request when the command has ended.',
    }),
  })
  .meta({ id: 'SandboxAttachRequest' })
export type SandboxAttachRequest = z.infer<typeof SandboxAttachRequest>

const params = z.strictObject({ sandbox: Reference })
const answer = z.object({ sandbox: PublicSandbox, index: Index })
const changing = ['not_found', 'conflict', 'exhausted'] as const
const reaching = ['not_found', 'conflict', 'exhausted'] as const

export const sandboxEndpoints = {
  createSandbox: endpoint({
    ...routes.createSandbox,
    role: 'compute:write',
    summary: 'Creates a sandbox, and answers when it does.',
    body: CreateSandbox,
    answer,
    faults: changing,
  }),
  listSandboxes: endpoint({
    ...routes.listSandboxes,
    role: 'compute:read',
    summary: 'Lists sandboxes by id.',
    query: z.strictObject({
      phase: z
        .string()
        .max(200)
        .transform((text) => text.split(','))
        .pipe(z.array(z.enum(sandboxPhases)).min(1))
        .optional()
        .meta({
          description: 'Only those in one of these, such as `running,paused`. By default all that are not over.',
        }),
      all: z
        .union([z.boolean(), z.enum(['true', 'false']).transform((text) => text === 'true')])
        .default(false)
        .meta({ description: 'Also those that are over, as long as they are remembered.' }),
      template: z.string().max(63).optional(),
      node: Reference.optional(),
      metadata: z
        .string()
        .max(10_000)
        .optional()
        .meta({ description: 'Only those with all of these entries: `key=value,key=value`, percent-encoded.' }),
      ...pageQuery,
    }),
    answer: z.object({ sandboxes: z.array(PublicSandbox), ...pageAnswer }),
    faults: ['not_found'],
  }),
  getSandbox: endpoint({
    ...routes.getSandbox,
    role: 'compute:read',
    summary: 'Shows a sandbox.',
    params,
    answer: z.object({ sandbox: PublicSandbox, nodeName: z.string(), index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  updateSandbox: endpoint({
    ...routes.updateSandbox,
    role: 'compute:write',
    summary: 'Changes the metadata of a sandbox; entries given as null are removed.',
    params,
    body: z.strictObject({
      metadata: z
        .record(z.string().min(1).max(255), z.string().max(4096).nullable())
        .refine((entries) => Object.keys(entries).length <= 50, 'at most 50 entries')
        .optional(),
      autoResume: z.boolean().optional(),
    }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
  killSandbox: endpoint({
    ...routes.killSandbox,
    role: 'compute:write',
    summary: 'Ends a sandbox for good. Killing one that is over changes nothing.',
    params,
    answer,
    faults: ['not_found', 'conflict'],
  }),
  pauseSandbox: endpoint({
    ...routes.pauseSandbox,
    role: 'compute:write',
    summary: "Saves a sandbox with its memory and ends its machine; answers when it is safe on its node's disk.",
    params,
    answer,
    faults: changing,
  }),
  resumeSandbox: endpoint({
    ...routes.resumeSandbox,
    role: 'compute:write',
    summary: 'Lets a paused sandbox go on, and answers when it does.',
    params,
    answer,
    faults: changing,
  }),
  forkSandbox: endpoint({
    ...routes.forkSandbox,
    role: 'compute:write',
    summary: 'Makes copies of a running sandbox, which goes on. Each copy answers for itself.',
    params,
    body: z.strictObject({
      count: z.int().min(1).max(100).default(1),
      metadata: Metadata.optional().meta({ description: "By default the source's." }),
      env: Env.default({}).meta({ description: "Over the source's." }),
      timeoutMs: TimeoutMs.optional(),
    }),
    answer: z.object({
      forks: z.array(z.union([z.object({ sandbox: PublicSandbox }), z.object({ fault: Problem })])),
      index: Index,
    }),
    faults: changing,
  }),
  snapshotSandbox: endpoint({
    ...routes.snapshotSandbox,
    role: 'compute:write',
    summary: 'Makes a build of a running sandbox, which goes on.',
    params,
    body: z.strictObject({
      template: Name.optional().meta({ description: 'Put it under this name.' }),
      tag: Tag.default('latest'),
    }),
    answer: z.object({ build: PublicBuild, index: Index }),
    faults: changing,
  }),
  setSandboxTimeout: endpoint({
    ...routes.setSandboxTimeout,
    role: 'compute:write',
    summary: 'Says how long a sandbox may run from now on.',
    params,
    body: z.strictObject({ timeoutMs: TimeoutMs, onTimeout: z.enum(timeoutActions).optional() }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
  setSandboxEgress: endpoint({
    ...routes.setSandboxEgress,
    role: 'compute:write',
    summary: 'Says what a sandbox may reach; connections that this denies are cut.',
    params,
    body: z.strictObject({ egress: Egress }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
}

export { Path, Port, params as sandboxParams, reaching }
