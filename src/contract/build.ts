import { z } from 'zod'
import { BuildId, Name, NodeId, SandboxId } from '../model/ids.ts'
import { type Build, buildFailures, buildReasons, buildStatuses, MachineShape } from '../model/sandbox.ts'
import { endpoint } from './endpoint.ts'
import { Flag, Index, pageAnswer, pageQuery, Reference, Tag, Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicBuild = z
  .object({
    id: BuildId,
    template: z.string().nullable(),
    parent: BuildId.nullable().meta({ description: 'What it was made on top of.' }),
    reason: z.enum(buildReasons).meta({ description: 'Those of pauses and forks go when no sandbox needs them.' }),
    status: z.enum(buildStatuses),
    sandbox: SandboxId.nullable().meta({ description: 'Whose snapshot it is.' }),
    nodes: z.array(NodeId).meta({ description: 'That have it on their disk, or make it.' }),
    machine: z.object(MachineShape.shape).nullable(),
    diskMiB: z.int().nullable(),
    addedBytes: z.number().nullable().meta({ description: 'That it added to what its node had.' }),
    saved: z
      .object({ stoppedMs: z.number(), savedMs: z.number() })
      .optional()
      .meta({ description: 'How long its sandbox stood still for it, and until all was on disk.' }),
    compat: z.string().meta({ description: 'Of the VMM that saved it.' }),
    store: z.string().meta({ description: 'The shared store that it lies in; empty: none.' }),
    steps: z.int(),
    error: z.string().optional(),
    failure: z
      .enum(buildFailures)
      .optional()
      .meta({ description: 'Why it failed: what its recipe ran (`step`), or a code as of faults.' }),
    createdAt: Time,
    changedAt: Time,
    by: z.string(),
  })
  .meta({ id: 'Build' })
export type PublicBuild = z.infer<typeof PublicBuild>

export function publicBuild(row: Build): PublicBuild {
  return { ...row }
}

/** One line of `buildLogs`. */
export const PublicBuildLine = z
  .object({
    at: Time,
    level: z.enum(['info', 'warning', 'error']),
    step: z.int().meta({ description: 'Which step speaks; 0 before the first.' }),
    message: z.string(),
  })
  .meta({ id: 'BuildLine' })
export type PublicBuildLine = z.infer<typeof PublicBuildLine>

export const BuildReference = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,62}(:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$/, 'must be the id of a build, or template:tag')
  .meta({ description: 'The id of a build or its beginning, or a template with or without a tag.' })
const params = z.strictObject({ build: BuildReference })

export const buildEndpoints = {
  sendBuildContext: endpoint({
    ...routes.sendBuildContext,
    role: 'compute:write',
    summary: 'Sends the build context, a tar archive, and so starts the build; answers when the node has read it.',
    params,
    answer: z.object({ build: PublicBuild, index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  listBuilds: endpoint({
    ...routes.listBuilds,
    role: 'compute:read',
    summary: 'Lists builds by id.',
    query: z.strictObject({
      template: z.string().max(63).optional(),
      status: z.enum(buildStatuses).optional(),
      node: Reference.optional(),
      all: Flag.default(false).meta({ description: 'Also those of pauses and forks.' }),
      ...pageQuery,
    }),
    answer: z.object({ builds: z.array(PublicBuild), ...pageAnswer }),
    faults: ['not_found'],
  }),
  getBuild: endpoint({
    ...routes.getBuild,
    role: 'compute:read',
    summary: 'Shows a build.',
    params,
    answer: z.object({ build: PublicBuild, index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  importBuild: endpoint({
    ...routes.importBuild,
    role: 'compute:write',
    summary: "Makes a build known that was copied into nodes' stores, or that one known lies on more of them.",
    body: z.strictObject({
      build: BuildId,
      node: Reference.optional().meta({ description: 'Ask only this node; by default all that are connected.' }),
      template: Name.optional().meta({ description: 'Put it under this name.' }),
      tag: Tag.default('latest'),
    }),
    answer: z.object({ build: PublicBuild, index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  deleteBuild: endpoint({
    ...routes.deleteBuild,
    role: 'compute:write',
    summary: 'Deletes a build with the tags that lead to it, or gives up one that is under way.',
    params,
    faults: ['not_found', 'conflict'],
  }),
  buildLogs: endpoint({
    ...routes.buildLogs,
    role: 'compute:read',
    summary: 'Streams what a build said, one BuildLine as JSON a line.',
    params,
    query: z.strictObject({ follow: Flag.default(false).meta({ description: 'Go on until it is over.' }) }),
    faults: ['not_found', 'conflict'],
  }),
}
