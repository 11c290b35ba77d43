import { z } from 'zod'
import { Name, type NodeId } from './ids.ts'

/** What a driver says of itself on one machine. */
export const DriverFacts = z.strictObject({
  healthy: z.boolean(),
  /** When not healthy: why, and what to install, in one sentence each. */
  reason: z.string().max(1000).optional(),
  remedy: z.string().max(1000).optional(),
  version: z.string().max(200).optional(),
  /** Seen by constraints as `attr.<driver>.<name>`, such as `attr.container.runtime`. */
  attributes: z.record(z.string().max(100), z.string().max(500)).default({}),
})
export type DriverFacts = z.infer<typeof DriverFacts>

/** What a node is. Sent by its agent when a session begins and whenever it changes. */
export const NodeFacts = z.strictObject({
  os: z.enum(['linux', 'macos']),
  arch: z.enum(['amd64', 'arm64']),
  hostname: z.string().max(255),
  /** Version of Tutti that the agent runs. */
  version: z.string().max(100),
  cores: z.int().positive(),
  /** MHz of one core. */
  coreMHz: z.number().positive(),
  /** Bytes for workloads, what the agent keeps for itself and the system already taken off. */
  memory: z.int().nonnegative(),
  disk: z.int().nonnegative(),
  drivers: z.record(Name, DriverFacts),
  attributes: z.record(z.string().max(100), z.string().max(500)).default({}),
  counters: z.record(Name, z.int().nonnegative()).default({}),
  /** Labels that the agent was started with; the control plane's own win over them. */
  labels: z.record(z.string().max(63), z.string().max(255)).default({}),
  /** Volumes that the node's owner offers by name. */
  volumes: z.array(Name).max(1000).default([]),
  /** Where workloads of this node can be reached. */
  address: z.string().max(255),
  /** First and last port for dynamic ports. */
  ports: z.tuple([z.int().min(1).max(65_535), z.int().min(1).max(65_535)]).default([20_000, 32_000]),
})
export type NodeFacts = z.infer<typeof NodeFacts>

/**
 * What the control plane thinks of the node's connection:
 * `joined` never connected yet, `ready` a session lives, `silent` the session ended but the lease has not,
 * `lost` the lease ran out and its allocations are replaced, `returning` connected again after being lost but
 * not yet in step with its assignments.
 */
export const nodePhases = ['joined', 'ready', 'silent', 'lost', 'returning'] as const
export type NodePhase = (typeof nodePhases)[number]

export interface Node {
  id: NodeId
  name: string
  phase: NodePhase
  /** False: nothing new is placed here. */
  eligible: boolean
  /** Set while its allocations are being moved away; `deadline` in ms since the epoch, or null without one. */
  drain: { since: number; deadline: number | null } | null
  /** Given by operators and join tokens; see `labelsOf`. */
  labels: Record<string, string>
  facts: NodeFacts | null
  /** Rises with every session; a message of a lower one is stale. */
  epoch: number
  /** Ms since the epoch: when the session last changed; beats are kept in memory only. */
  since: number
  joinedAt: number
  /** SHA-256 of the public key that the agent proved to hold when it enrolled. */
  keyFingerprint: string
  /** Of a renewed certificate's key, until the agent first connects with it: the answer may have been lost. */
  nextKeyFingerprint?: string
}

/** A node's labels: those its agent was started with, and over them those that operators and join tokens gave. */
export function labelsOf(node: Pick<Node, 'labels' | 'facts'>): Record<string, string> {
  return { ...node.facts?.labels, ...node.labels }
}

/** May new work go there? */
export function isOpen(node: Node): boolean {
  return node.phase === 'ready' && node.eligible && node.drain === null && node.facts !== null
}
