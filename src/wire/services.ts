import { z } from 'zod'
import { AllocationId, Name } from '../model/ids.ts'

/**
 * The byte streams that an agent serves. The request travels as one JSON header line; the answer is one JSON line,
 * `{"ok":true}` or `{"fault":{"code","message"}}`, then bytes: frames (`wire/frames.ts`) for exec, plain bytes for logs.
 */

export const ExecStream = z.strictObject({
  allocation: AllocationId,
  task: Name,
  command: z.array(z.string().max(65_536)).min(1).max(1024),
  env: z.record(z.string().max(255), z.string().max(32_768)).default({}),
  cwd: z.string().max(4096).optional(),
  user: z.string().max(64).optional(),
  terminal: z.strictObject({ columns: z.int().min(1).max(10_000), rows: z.int().min(1).max(10_000) }).optional(),
})
export type ExecStream = z.infer<typeof ExecStream>

export const LogStream = z.strictObject({
  allocation: AllocationId,
  task: Name,
  stream: z.enum(['stdout', 'stderr']),
  /** Go on as the task writes, until it has ended. */
  follow: z.boolean().default(false),
  /** Start this many lines before the end; everything kept when absent. */
  tail: z.int().nonnegative().max(1_000_000).optional(),
})
export type LogStream = z.infer<typeof LogStream>

export const StatsStream = z.strictObject({ allocation: AllocationId })
export type StatsStream = z.infer<typeof StatsStream>

export const SignalStream = z.strictObject({
  allocation: AllocationId,
  task: Name.optional(),
  signal: z.string().max(20),
})
export type SignalStream = z.infer<typeof SignalStream>

export const services = { exec: ExecStream, logs: LogStream, stats: StatsStream, signal: SignalStream } as const
export type ServiceName = keyof typeof services
