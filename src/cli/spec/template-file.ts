import { z } from 'zod'
import { Name } from '../../model/ids.ts'
import { Duration, Size } from '../../model/units.ts'

/** What a `template.yaml` may say; see docs/template.md. */

const Command = z.union([z.string().min(1).max(65_536), z.array(z.string().max(65_536)).min(1).max(1024)])
const Text = z.string().min(1).max(4096)
const Values = z.record(
  z.string().min(1).max(255),
  z.union([z.string().max(32_768), z.number(), z.boolean()]).transform(String),
)

/** `0755`, as a text or as a number; YAML itself reads `0o755` as octal and `0755` as decimal. */
const Mode = z.union([z.string(), z.int().nonnegative()]).transform((given, context) => {
  const digits = typeof given === 'string' ? given.replace(/^0o/, '') : given.toString(10)
  if (/^[0-7]{3,4}$/.test(digits)) return Number.parseInt(digits, 8)
  context.addIssue({ code: 'custom', message: 'must be an octal mode in quotes, such as "0755"' })
  return z.NEVER
})

const Copy = z.strictObject({
  from: z.union([Text, z.array(Text).min(1).max(1000)]),
  to: Text,
  owner: z.string().min(1).max(100).optional(),
  mode: Mode.optional(),
})

/** `src/ main.py /app/`: as after COPY in a Dockerfile, without quotes. */
const CopyText = z.string().transform((text, context) => {
  const words = text.split(/\s+/).filter((word) => word !== '')
  const to = words.at(-1)
  if (words.length >= 2 && to !== undefined) return { from: words.slice(0, -1), to }
  context.addIssue({ code: 'custom', message: 'must name a source and a target, such as "app/ /app/"' })
  return z.NEVER
})

const stepKinds = ['run', 'copy', 'add', 'env', 'workdir', 'user'] as const

export const TemplateStep = z
  .strictObject({
    run: Command.optional(),
    copy: z.union([CopyText, Copy]).optional(),
    /** As `copy`; archives are unpacked. */
    add: z.union([CopyText, Copy]).optional(),
    env: Values.optional(),
    workdir: Text.optional(),
    user: Text.max(64).optional(),
  })
  .superRefine((step, context) => {
    const given = stepKinds.filter((kind) => step[kind] !== undefined)
    if (given.length === 1) return
    const message =
      given.length === 0
        ? `is empty; a step is one of ${stepKinds.join(', ')}`
        : `is several steps in one: ${given.join(', ')}; begin each with a dash`
    context.addIssue({ code: 'custom', message })
  })
export type TemplateStep = z.infer<typeof TemplateStep>

export const TemplateFile = z.strictObject({
  name: Name.optional(),
  aliases: z.array(Name).max(100).default([]),
  tags: z
    .array(z.string().regex(/^\w[\w.-]{0,127}$/, 'must be letters, digits, dots, dashes or underscores'))
    .max(100)
    .default([]),
  /** An OCI image; `image` is the same. */
  from: Text.max(1000).optional(),
  image: Text.max(1000).optional(),
  template: Text.max(200).optional(),
  /** A Dockerfile beside this file, whose instructions come before `steps`. */
  dockerfile: Text.optional(),
  /** Its stage to build; by default the last. */
  target: Text.max(200).optional(),
  /** Where COPY finds its files; beside this file by default. */
  context: Text.optional(),
  arch: z.enum(['amd64', 'arm64']).optional(),
  steps: z.array(TemplateStep).max(1000).default([]),
  start: z.union([z.literal(true), Command]).optional(),
  ready: z
    .union([
      z.string().min(1).max(65_536),
      z.strictObject({ command: z.string().min(1).max(65_536), timeout: Duration.optional() }),
    ])
    .optional(),
  cpus: z.int().min(1).max(64).optional(),
  memory: Size.optional(),
  disk: Size.optional(),
})
export type TemplateFile = z.infer<typeof TemplateFile>
