import { z } from 'zod'
import { Egress } from './egress.ts'
import { Fault, faultCodes, StepFault } from './fault.ts'
import { BuildId, type NodeId, SandboxId } from './ids.ts'

export { Egress } from './egress.ts'

/**
 * A sandbox: an interactive microVM with a time limit. Its life on one node:
 *
 *     creating ──▶ running ──▶ pausing ──▶ paused ──▶ resuming ──▶ running …
 *         │           │           │           │           │
 *         └───────────┴───────────┴───────────┴───────────┴──▶ killed · failed
 *
 * A pause that dies half-way goes back to running, when the VM still runs, or to the last state that was kept.
 */
export const sandboxPhases = ['creating', 'running', 'pausing', 'paused', 'resuming', 'killed', 'failed'] as const
export type SandboxPhase = (typeof sandboxPhases)[number]

export const nextPhases: Record<SandboxPhase, readonly SandboxPhase[]> = {
  creating: ['running', 'failed', 'killed'],
  running: ['pausing', 'failed', 'killed'],
  pausing: ['paused', 'running', 'failed', 'killed'],
  paused: ['resuming', 'killed', 'failed'],
  resuming: ['running', 'paused', 'failed', 'killed'],
  killed: [],
  failed: [],
}

export function isOver(phase: SandboxPhase): boolean {
  return nextPhases[phase].length === 0
}

/** What a sandbox is to be, as its node is told. */
export const SandboxSpec = z.strictObject({
  id: SandboxId,
  build: BuildId,
  /** For every command; may hold secrets, so the node keeps it for itself and puts it into no snapshot. */
  env: z.record(z.string().max(255), z.string().max(32_768)).default({}),
  user: z.string().max(64).optional(),
  cwd: z.string().max(4096).optional(),
  hostname: z.string().max(63).optional(),
  egress: Egress.default({ mode: 'deny' }),
})
export type SandboxSpec = z.infer<typeof SandboxSpec>

/** What a machine looks like to its guest; a snapshot can be given only to a machine of the same shape. */
export const MachineShape = z.strictObject({
  arch: z.enum(['amd64', 'arm64']),
  cpus: z.int().min(1).max(64),
  memoryMiB: z
    .int()
    .min(32)
    .max(2 ** 20),
})
export type MachineShape = z.infer<typeof MachineShape>

/** What happens to a sandbox whose time is up. */
export const timeoutActions = ['kill', 'pause'] as const
export type TimeoutAction = (typeof timeoutActions)[number]

/** A sandbox as stored. Its environment is in a table of its own, because it may hold secrets, and this is shown. */
export interface Sandbox {
  id: SandboxId
  phase: SandboxPhase
  node: NodeId
  /** Of the node's session when it was last asked for something: what an older session says of it counts for less. */
  epoch: number
  /** What its life goes back to: what it was made from, or its last pause. */
  build: BuildId
  template: string | null
  /** Of which it is a fork. */
  parent: SandboxId | null
  name?: string
  metadata: Record<string, string>
  cpus: number
  memoryMiB: number
  /** Held on its node while it is not paused: bytes and MHz. */
  reserved: { memory: number; cpuMHz: number }
  /** How long it may run from each start; null: for ever. */
  timeoutMs: number | null
  /** When its time is up; null while it is paused, or when it may run for ever. Ms since the epoch. */
  expiresAt: number | null
  onTimeout: TimeoutAction
  /** Resumed by whoever wants to get in. */
  autoResume: boolean
  egress: Egress
  /** Its node has not yet confirmed `egress`. */
  egressPending: boolean
  user?: string
  cwd?: string
  /** Where it goes on from: set while paused, and while it is being paused or resumed. */
  pausedBuild: BuildId | null
  /** Why it is where it is, when that is worth saying. */
  reason?: string
  createdAt: number
  changedAt: number
  by: string
}

/** Takes part in the life of its node, or could again. */
export function isActive(sandbox: Pick<Sandbox, 'phase'>): boolean {
  return !isOver(sandbox.phase)
}

/** Holds memory and CPU of its node. A paused one does not. */
export function holdsRoom({ phase }: Pick<Sandbox, 'phase'>): boolean {
  return phase === 'creating' || phase === 'running' || phase === 'pausing' || phase === 'resuming'
}

/** A named recipe for sandboxes. Its tags lead to builds; `latest` is what is meant without one. */
export interface Template {
  name: string
  /** Tag → build. */
  tags: Record<string, BuildId>
  /** Other names that lead here. */
  aliases: string[]
  createdAt: number
  changedAt: number
}

export const buildStatuses = ['building', 'ready', 'failed', 'deleting'] as const
export type BuildStatus = (typeof buildStatuses)[number]

/** Why a build was made. Those of pauses and forks go when no sandbox needs them any more. */
export const buildReasons = ['template', 'snapshot', 'pause', 'fork'] as const
export type BuildReason = (typeof buildReasons)[number]

/** Why a build failed: what its recipe ran (`step`), or as faults say it. */
export const buildFailures = ['step', ...faultCodes] as const
export type BuildFailure = (typeof buildFailures)[number]

export function buildFailureOf(thrown: unknown): BuildFailure {
  return thrown instanceof StepFault ? 'step' : Fault.from(thrown).code
}

/** One immutable snapshot of a machine. */
export interface Build {
  id: BuildId
  template: string | null
  parent: BuildId | null
  reason: BuildReason
  status: BuildStatus
  /** Whose snapshot it is. */
  sandbox: SandboxId | null
  /** That have it on their disk. */
  nodes: NodeId[]
  /** Null until it is known. */
  machine: MachineShape | null
  diskMiB: number | null
  /** That it added to what its node had already. */
  addedBytes: number | null
  /** How long its sandbox stood still for it, and until all was on disk, ms; absent where no sandbox was saved. */
  saved?: { stoppedMs: number; savedMs: number }
  /** The shared store that it lies in, as its node calls it: nodes with the same one can get it. Empty: none. */
  store: string
  /** A VMM of another `compat` cannot go on from it; empty when it does not say. */
  compat: string
  /** Of its steps, for people. */
  steps: number
  error?: string
  /** Set with `error`; rows of earlier versions lack it. */
  failure?: BuildFailure
  createdAt: number
  changedAt: number
  by: string
}

export interface BuildLogLine {
  at: number
  level: 'info' | 'warning' | 'error'
  step: number
  message: string
}

/** Some lines of what a build said, in the order of `part`. */
export interface BuildLog {
  build: BuildId
  part: number
  lines: BuildLogLine[]
}
