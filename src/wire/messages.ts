import { z } from 'zod'
import { AllocationStatus } from '../model/allocation.ts'
import { AllocationId, Name, NodeId } from '../model/ids.ts'
import { JobSpec } from '../model/job.ts'
import { NodeFacts } from '../model/node.ts'
import { SandboxesMessage } from './sandbox.ts'

/**
 * The conversation between control plane and agent: one long-lived stream of these, one JSON text per line, both ways.
 * The agent speaks first (`hello`); the control plane answers `welcome` and a `full` assignment set, then `delta`s that
 * apply only on the version they name. Everything said may be said again after a reconnect.
 */

/** ALPN name of the agent protocol. */
export const agentProtocol = 'tutti-agent/1'
/** The agent beats this often; a node that has been silent for `leaseMs` is lost. The same at any fleet size. */
export const beatMs = 5000
export const leaseMs = 15_000
/** One line of the conversation is at most this long, in bytes. */
export const maxMessageBytes = 64 * 2 ** 20

/** One allocation as its agent must make it. The job's spec travels once per message, under `spec`. */
export const Assignment = z.strictObject({
  id: AllocationId,
  job: Name,
  version: z.int().positive(),
  slot: z.int().nonnegative(),
  generation: z.int().nonnegative(),
  desired: z.enum(['run', 'stop']),
  ports: z.record(Name, z.int().min(1).max(65_535)),
  /** Key into `specs`. */
  spec: z.string().max(200),
})
export type Assignment = z.infer<typeof Assignment>

const Specs = z.record(z.string().max(200), JobSpec)

export const ControlMessage = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('welcome'),
    epoch: z.int(),
    /** The control plane's clock; ms since the epoch. */
    now: z.int(),
    beatMs: z.int(),
    leaseMs: z.int(),
    /** The node's labels, for references in specs. */
    labels: z.record(z.string().max(63), z.string().max(255)).optional(),
  }),
  /** All that this node should have: what it has beyond this is to be ended and removed. */
  z.strictObject({ type: z.literal('full'), version: z.int(), specs: Specs, assignments: z.array(Assignment) }),
  z.strictObject({
    type: z.literal('delta'),
    base: z.int(),
    version: z.int(),
    specs: Specs,
    put: z.array(Assignment),
    remove: z.array(AllocationId),
  }),
  /** Statuses up to this report are durable; the agent may forget to repeat them. */
  z.strictObject({ type: z.literal('noted'), report: z.int() }),
  /** The session is over, and why; the agent should not come back before `retryMs`. */
  z.strictObject({ type: z.literal('goodbye'), message: z.string().max(1000), retryMs: z.int() }),
])
export type ControlMessage = z.infer<typeof ControlMessage>

export const AgentEvent = z.strictObject({
  at: z.int(),
  level: z.enum(['info', 'warning', 'error']),
  kind: z.string().max(100),
  message: z.string().max(2000),
  allocation: AllocationId.optional(),
  task: Name.optional(),
})
export type AgentEvent = z.infer<typeof AgentEvent>

export const AgentMessage = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('hello'),
    node: NodeId,
    name: Name,
    /** Random per agent process: tells a reconnect from a second agent under the same name. */
    instance: z.string().max(64),
    /** The agent's clock; ms since the epoch. */
    now: z.int(),
    facts: NodeFacts,
  }),
  z.strictObject({ type: z.literal('facts'), facts: NodeFacts }),
  /** A delta did not fit: please send everything. */
  z.strictObject({ type: z.literal('resync') }),
  /** Assignments up to this version have been taken in and written down. */
  z.strictObject({ type: z.literal('taken'), version: z.int() }),
  z.strictObject({
    type: z.literal('report'),
    report: z.int(),
    statuses: z.array(AllocationStatus).max(10_000),
    events: z.array(AgentEvent).max(10_000),
  }),
  SandboxesMessage,
  z.strictObject({ type: z.literal('beat') }),
])
export type AgentMessage = z.infer<typeof AgentMessage>
