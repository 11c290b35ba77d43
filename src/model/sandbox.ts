import { z } from 'zod'
import { Egress } from './egress.ts'
import { BuildId, SandboxId } from './ids.ts'

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
  /** For every command; may hold secrets, so it is kept in memory only, on the node and nowhere else. */
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
