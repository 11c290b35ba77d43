import { z } from 'zod'
import { AllocationId, Name, type NodeId } from './ids.ts'

/**
 * One attempt to run a slot on one node. Bound to its node for ever; what is observed only moves forward, so of two
 * reports the later phase is right. Trying again is a new allocation.
 *
 *   pending ─▶ preparing ─▶ running ─▶ complete
 *      │           │           ├─────▶ failed
 *      └───────────┴───────────┼─────▶ stopped      (it was asked to)
 *                              └─────▶ lost         (its node was; set by the control plane)
 */
export const allocationPhases = ['pending', 'preparing', 'running', 'complete', 'failed', 'stopped', 'lost'] as const
export type AllocationPhase = (typeof allocationPhases)[number]

export const nextAllocationPhases: Record<AllocationPhase, readonly AllocationPhase[]> = {
  pending: ['preparing', 'running', 'complete', 'failed', 'stopped', 'lost'],
  preparing: ['running', 'complete', 'failed', 'stopped', 'lost'],
  running: ['complete', 'failed', 'stopped', 'lost'],
  complete: [],
  failed: [],
  stopped: [],
  lost: [],
}

export function isTerminal(phase: AllocationPhase): boolean {
  return nextAllocationPhases[phase].length === 0
}

export const taskPhases = ['pending', 'preparing', 'starting', 'running', 'waiting', 'exited', 'failed'] as const

/** What one task of an allocation is doing; `waiting` is the pause before a restart. */
export const TaskStatus = z.strictObject({
  phase: z.enum(taskPhases),
  /** Starts after the first. */
  restarts: z.int().nonnegative().default(0),
  startedAt: z.int().optional(),
  finishedAt: z.int().optional(),
  /** 128 + n for death by signal n. */
  exitCode: z.int().optional(),
  signal: z.string().max(20).optional(),
  outOfMemory: z.boolean().optional(),
  pid: z.int().optional(),
  /** Undefined without checks. */
  healthy: z.boolean().optional(),
  /** One sentence: why it is where it is. */
  message: z.string().max(2000).optional(),
})
export type TaskStatus = z.infer<typeof TaskStatus>

/** What an agent says of one allocation. */
export const AllocationStatus = z.strictObject({
  id: AllocationId,
  phase: z.enum(allocationPhases),
  /** All main and sidecar tasks run and their checks pass. */
  healthy: z.boolean(),
  tasks: z.record(Name, TaskStatus),
  message: z.string().max(2000).optional(),
})
export type AllocationStatus = z.infer<typeof AllocationStatus>

export interface Allocation {
  id: AllocationId
  job: string
  /** Which version of the job it runs. */
  version: number
  /** Index of the slot it fills, from 0. */
  slot: number
  node: NodeId
  /** Rises with each restart that a user asks for. */
  generation: number
  desired: 'run' | 'stop'
  /** Why it was asked to stop; one sentence. */
  reason?: string
  /** Port numbers of the node by the job's port names. */
  ports: Record<string, number>
  phase: AllocationPhase
  healthy: boolean
  /** When it last became healthy; ms since the epoch. */
  healthyAt?: number
  tasks: Record<string, TaskStatus>
  message?: string
  createdAt: number
  changedAt: number
}

export function isLive(allocation: Pick<Allocation, 'phase'>): boolean {
  return !isTerminal(allocation.phase)
}
