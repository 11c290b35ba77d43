import { z } from 'zod'
import { faultCodes } from '../model/fault.ts'
import { FileEntry, GuestMetrics, GuestProcess } from '../model/guest.ts'
import { BuildId, SandboxId } from '../model/ids.ts'
import { MachineShape } from '../model/sandbox.ts'
import type { SandboxRequest } from './sandbox.ts'

/**
 * What a node answers to each request of the `sandbox` service, as one line of JSON, and what it says while it builds.
 * Fields may be added; what is not known is ignored.
 */

const Done = z.object({})

/** As `Saved` of the node's sandboxes. */
export const SavedAnswer = z.object({
  addedBytes: z.number().nonnegative(),
  stoppedMs: z.number().nonnegative(),
  savedMs: z.number().nonnegative(),
})
export type SavedAnswer = z.infer<typeof SavedAnswer>

export const ForkAnswer = z.object({
  children: z
    .array(
      z.object({
        id: SandboxId,
        fault: z.object({ code: z.enum(faultCodes), message: z.string().max(10_000) }).optional(),
      }),
    )
    .max(100),
})
export type ForkAnswer = z.infer<typeof ForkAnswer>

export const AdoptedAnswer = z.object({
  reason: z.enum(['template', 'layer', 'pause', 'snapshot']),
  parent: BuildId.nullable(),
  createdAt: z.int(),
  machine: MachineShape,
  diskMiB: z.int().nonnegative(),
  addedBytes: z.number().nonnegative(),
  /** Empty: it boots. */
  compat: z.string().max(500),
})
export type AdoptedAnswer = z.infer<typeof AdoptedAnswer>

export const sandboxAnswers = {
  create: Done,
  pause: SavedAnswer,
  resume: Done,
  snapshot: SavedAnswer,
  fork: ForkAnswer,
  kill: Done,
  egress: Done,
  metrics: GuestMetrics,
  stat: FileEntry,
  list: z.object({ entries: z.array(FileEntry).max(1_000_000) }),
  mkdir: Done,
  move: Done,
  remove: Done,
  processes: z.object({ processes: z.array(GuestProcess).max(100_000) }),
  signal: Done,
  input: Done,
  console: z.object({ text: z.string() }),
  forgetBuild: Done,
  adoptBuild: AdoptedAnswer,
} as const satisfies Record<SandboxRequest['op'], z.ZodType>
export type SandboxAnswer<Op extends SandboxRequest['op']> = z.infer<(typeof sandboxAnswers)[Op]>

/** One line of a `build` stream, from the node. */
export const BuildLine = z.union([
  z.object({
    log: z.object({
      at: z.int(),
      level: z.enum(['info', 'warning', 'error']),
      /** Which step speaks; 0 before the first. */
      step: z.int().nonnegative(),
      message: z.string().max(16_384),
    }),
  }),
  z.object({
    built: z.object({
      machine: MachineShape,
      diskMiB: z.int().nonnegative().optional(),
      addedBytes: z.number().nonnegative().optional(),
      /** Of the VMM that saved it; see `VmmFacts.compat`. */
      compat: z.string().max(500).optional(),
    }),
  }),
  z.object({
    fault: z.object({
      code: z.enum(faultCodes),
      message: z.string().max(10_000),
      /** What the recipe ran failed. */
      step: z.boolean().optional(),
    }),
  }),
])
export type BuildLine = z.infer<typeof BuildLine>
