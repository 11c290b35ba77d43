import { z } from 'zod'

const Command = z.union([z.string().max(65_536), z.array(z.string().max(65_536)).min(1).max(1024)])

/** An earlier stage, by its place in the list, or an image. */
const CopyFrom = z.union([
  z.strictObject({ stage: z.int().min(0).max(1000) }),
  z.strictObject({ image: z.string().max(1000) }),
])
export type CopyFrom = z.infer<typeof CopyFrom>

const owned = {
  uid: z.int().min(0).max(999_999_999).default(0),
  gid: z.int().min(0).max(999_999_999).default(0),
  mode: z.int().min(0).max(0o7777).optional(),
}

/** What a command finds in its file system while it runs, and that is no part of what it leaves. */
const Mount = z.discriminatedUnion('kind', [
  /** Files of the context, or of a stage or an image; with what is written there nothing happens. */
  z.strictObject({
    kind: z.literal('bind'),
    to: z.string().max(4096),
    source: z.string().max(4096),
    from: CopyFrom.optional(),
    writable: z.boolean(),
  }),
  /** A directory that the node keeps for the next build of the template. */
  z.strictObject({
    ...{
      kind: z.literal('cache'),
      to: z.string().max(4096),
      id: z.string().max(1000),
      readOnly: z.boolean(),
      ...owned,
    },
  }),
  z.strictObject({
    ...{ kind: z.literal('tmpfs'), to: z.string().max(4096) },
    bytes: z
      .int()
      .min(4096)
      .max(2 ** 40)
      .optional(),
  }),
  /** A file, a variable, or both. */
  z.strictObject({
    kind: z.literal('secret'),
    id: z.string().min(1).max(255),
    to: z.string().max(4096).optional(),
    env: z
      .string()
      .regex(/^[A-Za-z_]\w{0,254}$/, 'is no name of a variable')
      .optional(),
    required: z.boolean(),
    ...owned,
  }),
])
export type Mount = z.infer<typeof Mount>

/**
 * How a template is made: what `template.yaml`, a Dockerfile and `--image` all come to. Checked once, on the machine of
 * whoever asks, and again by the node.
 *
 * Values of `env`, `args`, `workdir`, `user` and `copy` may refer to variables that only the node knows, such as the
 * image's own PATH: `$NAME`, `${NAME:-word}` and the like, and `$$` for a dollar; see expand.ts.
 */
export const Step = z.discriminatedUnion('kind', [
  /** A shell command line (`/bin/sh -c`), or a program with its arguments. */
  z.strictObject({
    kind: z.literal('run'),
    command: Command,
    /** For this command only, such as a Dockerfile's build arguments; may be secret, so never shown. */
    args: z.record(z.string().max(255), z.string().max(32_768)).optional(),
    mounts: z.array(Mount).max(50).optional(),
  }),
  /** Files of the build context, or from elsewhere, into the image, by Docker's rules for COPY and ADD. */
  z.strictObject({
    kind: z.literal('copy'),
    sources: z.array(z.string().max(4096)).max(1000),
    /** Where the sources lie instead of in the context: an earlier stage, by its place in the list, or an image. */
    from: CopyFrom.optional(),
    /** Files that are written out in the recipe itself, with variables; they come after the sources. */
    inline: z
      .array(z.strictObject({ name: z.string().min(1).max(255), text: z.string().max(1_000_000) }))
      .max(100)
      .optional(),
    to: z.string().max(4096),
    owner: z.string().max(100).optional(),
    /** Bits, or what becomes of those that a file has, as `u=rwX,go=rX`. */
    mode: z.union([z.int().min(0).max(0o7777), z.string().max(200)]).optional(),
    /** Patterns of what is left out, as in .dockerignore, below each source. */
    exclude: z.array(z.string().min(1).max(4096)).max(100).optional(),
    /** Directories that a source names are kept. */
    parents: z.boolean().optional(),
    /** ADD: archives are unpacked and URLs fetched. */
    unpack: z.boolean().default(false),
    /** Of the one URL that is fetched. */
    checksum: z
      .string()
      .regex(/^sha256:[0-9a-f]{64}$/)
      .optional(),
  }),
  z.strictObject({ kind: z.literal('env'), values: z.record(z.string().max(255), z.string().max(32_768)) }),
  z.strictObject({ kind: z.literal('workdir'), path: z.string().max(4096) }),
  z.strictObject({ kind: z.literal('user'), user: z.string().max(64) }),
])
export type Step = z.infer<typeof Step>

/** A step, and where it is written, for messages: `Dockerfile:12`. */
export const PlacedStep = z.strictObject({ step: Step, place: z.string().max(200), text: z.string().max(2000) })
export type PlacedStep = z.infer<typeof PlacedStep>

/** An OCI image by reference, an archive of one on the node (`oci-archive:/path`), or another template. */
const From = z.union([
  z.strictObject({ image: z.string().max(1000) }),
  z.strictObject({ template: z.string().max(200) }),
])

/** A disk of its own that later stages copy from, and that nothing is left of in the template. */
const Stage = z.strictObject({ name: z.string().max(200), from: From, steps: z.array(PlacedStep).max(1000) })
export type Stage = z.infer<typeof Stage>

const Fields = z.strictObject({
  from: From,
  arch: z.enum(['amd64', 'arm64']).optional(),
  steps: z.array(PlacedStep).max(1000),
  /** What steps copy from; each copies from those before it only. */
  stages: z.array(Stage).max(100).optional(),
  /** For ARG among the ONBUILD instructions of images; may be secret, so never shown. */
  buildArgs: z.record(z.string().max(255), z.string().max(32_768)).optional(),
  /** All of the build context is sent, and not only what the steps take: for ONBUILD instructions that copy. */
  wholeContext: z.boolean().optional(),
  /**
   * Runs on in every sandbox: begun before the snapshot. `true` is the image's own entry point with its command;
   * `afterEntrypoint` is given to the entry point in the place of that command.
   */
  start: z.union([Command, z.literal(true), z.strictObject({ afterEntrypoint: Command })]).optional(),
  /** Must succeed before the snapshot is taken; asked every half second. */
  ready: z
    .strictObject({ command: z.string().max(65_536), timeoutMs: z.int().min(1000).max(3_600_000).default(300_000) })
    .optional(),
  cpus: z.int().min(1).max(64).default(1),
  memoryMiB: z
    .int()
    .min(64)
    .max(2 ** 20)
    .default(512),
  diskMiB: z
    .int()
    .min(64)
    .max(2 ** 24)
    .default(2048),
})

export const Recipe = Fields.superRefine((recipe, context) => {
  for (const [at, { name, steps }] of stagesOf(recipe).entries())
    for (const [number, { step }] of steps.entries()) {
      const own = at < (recipe.stages ?? []).length ? ['stages', at] : []
      const path = [...own, 'steps', number]
      if (originsOf(step).some((from) => 'stage' in from && from.stage >= at))
        context.addIssue({ code: 'custom', path, message: `stage "${name}" copies from one that is not before it` })
      if (step.kind !== 'copy') continue
      const { sources, inline = [] } = step
      if (sources.length + inline.length === 0)
        context.addIssue({ code: 'custom', path, message: 'a step copies nothing: it has no source' })
    }
})
export type Recipe = z.infer<typeof Recipe>

/** All stages in order; the last is the template itself, without a name. */
export function stagesOf({
  stages = [],
  from,
  steps,
}: Pick<z.infer<typeof Fields>, 'stages' | 'from' | 'steps'>): Stage[] {
  return [...stages, { name: '', from, steps }]
}

/** A URL that ADD fetches. */
export function isUrl(source: string): boolean {
  return /^https?:\/\//i.test(source)
}

/** Whether anything of a build context is to be sent for a recipe. */
export function needsContext(recipe: Pick<Recipe, 'stages' | 'from' | 'steps' | 'wholeContext'>): boolean {
  return (
    recipe.wholeContext === true || stagesOf(recipe).some(({ steps }) => steps.some(({ step }) => takesContext(step)))
  )
}

/** Whether a step takes files that whoever asks has to send. */
export function takesContext(step: Step): boolean {
  return contextSources(step).length > 0
}

/** What a step names of the context. */
export function contextSources(step: Step): string[] {
  if (step.kind === 'copy' && step.from === undefined)
    return step.sources.filter((source) => !step.unpack || !isUrl(source))
  return bindsOf(step).flatMap(({ from, source }) => (from === undefined ? [source] : []))
}

/** The stages and images that a step takes files from. */
export function originsOf(step: Step): CopyFrom[] {
  if (step.kind === 'copy') return step.from ? [step.from] : []
  return bindsOf(step).flatMap(({ from }) => from ?? [])
}

function bindsOf(step: Step): Extract<Mount, { kind: 'bind' }>[] {
  return step.kind === 'run' ? (step.mounts ?? []).filter((mount) => mount.kind === 'bind') : []
}
