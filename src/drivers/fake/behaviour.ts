import { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { TaskPlan } from '../driver.ts'

/** What a fake task does, as its `config` says; all times pass on the given clock. */
export const FakeBehaviour = z.strictObject({
  prepareMs: z.number().nonnegative().default(0),
  /** Preparing fails with this sentence, for instance as an image would that cannot be pulled. */
  failPrepare: z.string().min(1).optional(),
  startMs: z.number().nonnegative().default(0),
  /** Starting fails with this sentence, as a program would that is not there. */
  failStart: z.string().min(1).optional(),
  /** Appended to its stdout when it starts. */
  output: z.string().optional(),
  /** Ends by itself after this long; without, it runs until it is stopped. */
  runMs: z.number().nonnegative().optional(),
  /** How it ends by itself; a list gives one code for each attempt, the last for all that follow. */
  exitCode: z.union([z.int().min(0).max(255), z.array(z.int().min(0).max(255)).min(1)]).default(0),
  /** Its end by itself is the kernel's doing, for lack of memory. */
  outOfMemory: z.boolean().default(false),
  /** Only SIGKILL ends it. */
  ignoreSignals: z.boolean().default(false),
  /** How long it takes to end after a signal that it obeys. */
  stopMs: z.number().nonnegative().default(0),
})
export type FakeBehaviour = z.infer<typeof FakeBehaviour>

export function behaviourOf(plan: TaskPlan): FakeBehaviour {
  const parsed = FakeBehaviour.safeParse(plan.spec.config)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new Fault('invalid', `config of fake task "${plan.task}": ${issue?.path.join('.')} ${issue?.message}`)
}

export function exitCodeOf({ exitCode }: FakeBehaviour, attempt: number): number {
  if (typeof exitCode === 'number') return exitCode
  return exitCode[Math.min(attempt, exitCode.length) - 1] ?? 0
}
