import type { GuestChannel } from '../guest/channel.ts'
import type { BuildId, SandboxId } from '../model/ids.ts'
import type { Egress, SandboxPhase, SandboxSpec } from '../model/sandbox.ts'
import type { Denial } from './network.ts'

/**
 * All sandboxes of this node: VMMs, their disks and memory, their network, the channel into each. What lives here outlives
 * the agent; `open` takes it over. Rejects with a Fault: `not_found` for a sandbox or build that is not here, `conflict`
 * for one in the wrong phase, `exhausted` when the node has no room (with what is missing), `unavailable` when it may
 * work later. Every operation may be asked again with the same ids and then finds what the first did.
 */
export interface Sandboxes extends AsyncDisposable {
  /** From a build with a snapshot, or by booting one without. Resolves when the guest answered and is who it should be. */
  create(spec: SandboxSpec, options: { signal: AbortSignal }): Promise<void>
  /** Takes a build of it and ends its VM. Resolves when the build is safe on this node's disk. */
  pause(id: SandboxId, options: { build: BuildId; signal: AbortSignal }): Promise<Saved>
  /** Goes on where `pause` left it; same identity, new clock and entropy. */
  resume(spec: SandboxSpec, options: { signal: AbortSignal }): Promise<void>
  /** Takes a build of it while it lives. Resolves when it is safe; the sandbox went on long before. */
  snapshot(id: SandboxId, options: { build: BuildId; signal: AbortSignal }): Promise<Saved>
  /** One snapshot, then a sandbox of it for each spec; each answers for itself. */
  fork(id: SandboxId, options: { build: BuildId; children: SandboxSpec[]; signal: AbortSignal }): Promise<ForkResult[]>
  kill(id: SandboxId): Promise<void>
  setEgress(id: SandboxId, egress: Egress): Promise<void>
  /** The way in; only for running ones. */
  guest(id: SandboxId): Promise<GuestAccess>
  /** The guest's console, for people. */
  console(id: SandboxId): Promise<string>
  list(): SandboxStatus[]
  /** Told of every change of a status, and of every denial. Returns the way to stop. */
  subscribe(listener: (news: SandboxNews) => void): () => void
  /** How many start at the same time, what waits, what the pools hold. */
  facts(): SandboxFacts
}

export interface GuestAccess {
  channel: GuestChannel
  /** To be given to every command, under what it brings itself: the guest keeps none of it, so no snapshot holds it. */
  env: Record<string, string>
}

export interface Saved {
  build: BuildId
  addedBytes: number
  /** How long the guest stood still, ms. */
  stoppedMs: number
  /** From the request until everything was on disk, ms. */
  savedMs: number
}

export type ForkResult = { id: SandboxId; fault?: { code: string; message: string } }

export interface SandboxStatus {
  id: SandboxId
  phase: SandboxPhase
  /** What it began from, or was paused to. */
  build: BuildId
  /** Why it is over, for people. */
  reason?: string
}

export type SandboxNews = { kind: 'status'; status: SandboxStatus } | { kind: 'denied'; id: SandboxId; denial: Denial }

export interface SandboxFacts {
  healthy: boolean
  reason?: string
  remedy?: string
  vmm: string
  accelerator: string
  network: string
  running: number
  warm: number
  /** Starts since the agent was started, by what was made ahead for them: a VM that ran, a VMM that waited, or none. */
  starts: { running: number; waiting: number; none: number }
}
