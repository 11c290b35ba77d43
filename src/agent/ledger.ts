import type { TaskPlan } from '../drivers/driver.ts'
import type { AllocationPhase, TaskStatus } from '../model/allocation.ts'
import type { JobSpec } from '../model/job.ts'
import type { Assignment } from '../wire/messages.ts'

/**
 * The agent's memory on its own machine: what it was assigned, and how far it came. Intent is written before each side
 * effect, so that an agent that was killed can adopt what runs, finish what was begun, and never begins an attempt twice.
 */
export interface Ledger {
  /** Everything written, once, at the start. The caller owns the records and may change them; `save` says when to write. */
  load(): Loaded
  /**
   * Writes the record as it stands when the batch is written, soon; resolves once it would survive the agent's death.
   * Records saved in the same moment share one transaction.
   */
  save(record: AllocationRecord): Promise<void>
  /** Forgets the allocation and, with the last one that used it, its spec. */
  forget(id: string): Promise<void>
  /** The version of the assignment set that the records reflect. */
  saveVersion(version: number): Promise<void>
  close(): Promise<void>
}

export interface Loaded {
  records: AllocationRecord[]
  version: number
  /** Set when what was there could not be read and was put aside: one sentence. */
  lost?: string
}

export interface AllocationRecord {
  assignment: Assignment
  spec: JobSpec
  phase: AllocationPhase
  /** How it is to end, once that is decided; poststop tasks may still have to run. */
  outcome: { phase: 'complete' | 'failed' | 'stopped'; message: string } | null
  healthy: boolean
  tasks: Record<string, TaskRecord>
  /** The newest status is durable at the control plane. */
  noted: boolean
}

/**
 *   new ─▶ preparing ─▶ ready ─▶ starting ─▶ running ─▶ done | failed | stopped
 *              │          ▲         │           │
 *              └──────────┴─ waiting ◀──────────┘      (the pause before another try)
 */
export const taskSteps = [
  'new',
  'preparing',
  'ready',
  'starting',
  'running',
  'waiting',
  'done',
  'failed',
  'stopped',
] as const
export type TaskStep = (typeof taskSteps)[number]

export interface TaskRecord {
  step: TaskStep
  /** Artifacts and templates are in place. */
  prepared: boolean
  /** Number of the newest attempt; 0 before the first. */
  attempt: number
  /** The assignment's generation that the newest attempt was begun under. */
  generation: number
  /** Times of the failures that the restart policy counts; ms since the epoch. */
  failures: number[]
  /** While `waiting`: when to go on; ms since the epoch. */
  resumeAt: number
  /** What templates added to the environment. */
  env: Record<string, string>
  /** What the driver was given for the newest attempt, for as long as that may matter. */
  plan: TaskPlan | null
  status: TaskStatus
}

export function newTaskRecord(): TaskRecord {
  return {
    step: 'new',
    prepared: false,
    attempt: 0,
    generation: 0,
    failures: [],
    resumeAt: 0,
    env: {},
    plan: null,
    status: { phase: 'pending', restarts: 0 },
  }
}

export function isFinal(step: TaskStep): boolean {
  return step === 'done' || step === 'failed' || step === 'stopped'
}
