import { z } from 'zod'
import { BuildId, Name } from '../model/ids.ts'
import type { Template } from '../model/sandbox.ts'
import { BuildReference, PublicBuild } from './build.ts'
import { endpoint } from './endpoint.ts'
import { Index, pageAnswer, pageQuery, Reference, Tag, Time } from './fields.ts'
import { routes } from './routes.ts'
import { From } from './sandbox.ts'

export const PublicTemplate = z
  .object({
    name: z.string(),
    tags: z.record(z.string(), BuildId).meta({ description: 'Tag → build; `latest` is meant without one.' }),
    aliases: z.array(z.string()),
    createdAt: Time,
    changedAt: Time,
  })
  .meta({ id: 'Template' })
export type PublicTemplate = z.infer<typeof PublicTemplate>

export function publicTemplate({ name, tags, aliases, createdAt, changedAt }: Template): PublicTemplate {
  return { name, tags, aliases, createdAt, changedAt }
}

/** By id, in base64. */
const BuildSecrets = z
  .record(z.string().min(1).max(255), z.base64().max(100_000))
  .refine((secrets) => Object.keys(secrets).length <= 20, 'there are at most 20 secrets')

/** As much of a recipe as the control plane looks at; the node checks it whole. */
const Recipe = z
  .looseObject({
    from: z.union([z.strictObject({ image: z.string().min(1).max(1000) }), z.strictObject({ template: From })]),
    arch: z.enum(['amd64', 'arm64']).optional(),
    steps: z.array(z.unknown()).max(1000).default([]),
    stages: z
      .array(z.looseObject({ steps: z.array(z.unknown()).max(1000) }))
      .max(100)
      .optional()
      .meta({ description: 'What steps copy from; each is a disk of its own.' }),
    cpus: z.int().min(1).max(64).optional(),
    memoryMiB: z
      .int()
      .min(64)
      .max(2 ** 20)
      .optional(),
    diskMiB: z
      .int()
      .min(64)
      .max(2 ** 24)
      .optional(),
  })
  .meta({ id: 'Recipe', description: 'What a template is made of; docs/sandboxes.md.' })

const params = z.strictObject({ template: Name })
const answer = z.object({ template: PublicTemplate, index: Index })
const faults = ['not_found', 'conflict'] as const

export const templateEndpoints = {
  listTemplates: endpoint({
    ...routes.listTemplates,
    role: 'compute:read',
    summary: 'Lists templates by name.',
    query: z.strictObject({ ...pageQuery }),
    answer: z.object({ templates: z.array(PublicTemplate), ...pageAnswer }),
    faults: [],
  }),
  getTemplate: endpoint({
    ...routes.getTemplate,
    role: 'compute:read',
    summary: 'Shows a template with its builds.',
    params,
    answer: z.object({ template: PublicTemplate, builds: z.array(PublicBuild), index: Index }),
    faults,
  }),
  deleteTemplate: endpoint({
    ...routes.deleteTemplate,
    role: 'compute:write',
    summary: 'Deletes a template with its builds. Sandboxes that run go on.',
    params,
    faults,
  }),
  tagTemplate: endpoint({
    ...routes.tagTemplate,
    role: 'compute:write',
    summary: 'Has a tag lead to a build.',
    params: params.extend({ tag: Tag }),
    body: z.strictObject({ build: BuildReference }),
    answer,
    faults,
  }),
  untagTemplate: endpoint({
    ...routes.untagTemplate,
    role: 'compute:write',
    summary: 'Removes a tag; its build stays.',
    params: params.extend({ tag: Tag }),
    answer,
    faults,
  }),
  aliasTemplate: endpoint({
    ...routes.aliasTemplate,
    role: 'compute:write',
    summary: 'Gives a template another name beside its own.',
    params: params.extend({ alias: Name }),
    answer,
    faults,
  }),
  unaliasTemplate: endpoint({
    ...routes.unaliasTemplate,
    role: 'compute:write',
    summary: 'Takes an alias away.',
    params: params.extend({ alias: Name }),
    answer,
    faults,
  }),
  buildTemplate: endpoint({
    ...routes.buildTemplate,
    role: 'compute:write',
    summary: 'Begins a build on a node that can make it. It starts when its context comes, or at once without one.',
    params,
    body: z.strictObject({
      recipe: Recipe,
      tags: z.array(Tag).max(20).default(['latest']).meta({ description: 'That lead to it once it is ready.' }),
      aliases: z.array(Name).max(20).default([]).meta({ description: 'Other names of the template from then on.' }),
      noCache: z.boolean().default(false),
      node: Reference.optional(),
      context: z.boolean().default(false).meta({ description: 'A context is sent with `sendBuildContext`.' }),
      credentials: z
        .strictObject({
          username: z
            .string()
            .max(255)
            .regex(/^[^:]+$/, 'must not be empty, nor have a colon'),
          password: z.string().min(1).max(65_536),
        })
        .optional()
        .meta({ description: 'For the registry of the image. Given to the node that builds, and kept nowhere.' }),
      secrets: BuildSecrets.optional().meta({
        description: 'In base64, for `RUN --mount=type=secret`. Given to the node that builds, and kept nowhere.',
      }),
    }),
    answer: z.object({ build: PublicBuild, index: Index }),
    faults: ['not_found', 'conflict', 'exhausted'],
  }),
}
