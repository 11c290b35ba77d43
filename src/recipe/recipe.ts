import { z } from 'zod'

const Command = z.union([z.string().max(65_536), z.array(z.string().max(65_536)).min(1).max(1024)])

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
  }),
  /** Files of the build context, or of a URL, into the image, by Docker's rules for COPY and ADD. */
  z.strictObject({
    kind: z.literal('copy'),
    sources: z.array(z.string().max(4096)).min(1).max(1000),
    to: z.string().max(4096),
    owner: z.string().max(100).optional(),
    mode: z.int().min(0).max(0o7777).optional(),
    /** ADD: archives are unpacked and URLs fetched. */
    unpack: z.boolean().default(false),
  }),
  z.strictObject({ kind: z.literal('env'), values: z.record(z.string().max(255), z.string().max(32_768)) }),
  z.strictObject({ kind: z.literal('workdir'), path: z.string().max(4096) }),
  z.strictObject({ kind: z.literal('user'), user: z.string().max(64) }),
])
export type Step = z.infer<typeof Step>

/** A step, and where it is written, for messages: `Dockerfile:12`. */
export const PlacedStep = z.strictObject({ step: Step, place: z.string().max(200), text: z.string().max(2000) })
export type PlacedStep = z.infer<typeof PlacedStep>

export const Recipe = z.strictObject({
  /** An OCI image by reference, an archive of one on the node (`oci-archive:/path`), or another template. */
  from: z.union([z.strictObject({ image: z.string().max(1000) }), z.strictObject({ template: z.string().max(200) })]),
  arch: z.enum(['amd64', 'arm64']).optional(),
  steps: z.array(PlacedStep).max(1000),
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
export type Recipe = z.infer<typeof Recipe>
