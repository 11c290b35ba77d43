import { z } from 'zod'
import { NodeId } from '../model/ids.ts'
import { labelsOf, type Node, NodeFacts, nodePhases } from '../model/node.ts'
import { endpoint } from './endpoint.ts'
import { Index, pageAnswer, pageQuery, Reference, Time } from './fields.ts'
import { routes } from './routes.ts'

export const PublicNode = z
  .object({
    id: NodeId,
    name: z.string(),
    phase: z.enum(nodePhases),
    eligible: z.boolean().meta({ description: 'False: nothing new is placed here.' }),
    drain: z
      .object({ since: Time, deadline: Time.nullable() })
      .nullable()
      .meta({ description: 'Set while its allocations are being moved away.' }),
    labels: z.record(z.string(), z.string()),
    facts: z.object(NodeFacts.shape).nullable().meta({ description: 'Null before its first session.' }),
    since: Time.meta({ description: 'When its connection last changed.' }),
    joinedAt: Time,
  })
  .meta({ id: 'Node' })
export type PublicNode = z.infer<typeof PublicNode>

export function publicNode(node: Node): PublicNode {
  const { id, name, phase, eligible, drain, facts, since, joinedAt } = node
  return { id, name, phase, eligible, drain, labels: labelsOf(node), facts, since, joinedAt }
}

/** What is reserved on a node, of what it has for workloads. */
export const NodeUsage = z
  .object({
    allocations: z.int().nonnegative(),
    sandboxes: z.int().nonnegative().default(0),
    cpuMHz: z.number().nonnegative(),
    memory: z.number().nonnegative(),
    disk: z.number().nonnegative(),
  })
  .meta({ id: 'NodeUsage', description: 'Reserved by live allocations and sandboxes.' })
export type NodeUsage = z.infer<typeof NodeUsage>

const params = z.strictObject({ node: Reference })
const Label = z
  .string()
  .regex(/^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$/, 'must be 1 to 63 letters, digits, . _ / or -')
const answer = z.object({ node: PublicNode, index: Index })

export const nodeEndpoints = {
  listNodes: endpoint({
    ...routes.listNodes,
    role: 'compute:read',
    summary: 'Lists nodes by id, with what is reserved on each.',
    query: z.strictObject({ ...pageQuery }),
    answer: z.object({ nodes: z.array(PublicNode.extend({ usage: NodeUsage })), ...pageAnswer }),
    faults: [],
  }),
  getNode: endpoint({
    ...routes.getNode,
    role: 'compute:read',
    summary: 'Shows a node.',
    params,
    answer: z.object({ node: PublicNode.extend({ usage: NodeUsage }), index: Index }),
    faults: ['not_found', 'conflict'],
  }),
  drainNode: endpoint({
    ...routes.drainNode,
    role: 'admin:write',
    summary: 'Moves everything off a node, or ends that.',
    params,
    body: z.strictObject({
      deadlineMs: z
        .int()
        .nonnegative()
        .max(31 * 86_400_000)
        .nullable()
        .default(null)
        .meta({ description: 'From now; what has not moved by then is stopped at once. Null: as long as it takes.' }),
      cancel: z.boolean().default(false).meta({ description: 'End the drain; the node stays closed to new work.' }),
    }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
  setNodeEligible: endpoint({
    ...routes.setNodeEligible,
    role: 'admin:write',
    summary: 'Opens a node to new work, ending a drain, or closes it.',
    params,
    body: z.strictObject({ eligible: z.boolean() }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
  labelNode: endpoint({
    ...routes.labelNode,
    role: 'admin:write',
    summary: 'Sets labels of a node, and removes those given as null.',
    params,
    body: z.strictObject({
      labels: z
        .record(Label, z.string().max(255).nullable())
        .refine((labels) => Object.keys(labels).length <= 100, 'at most 100 labels at once'),
    }),
    answer,
    faults: ['not_found', 'conflict'],
  }),
  forgetNode: endpoint({
    ...routes.forgetNode,
    role: 'admin:write',
    summary:
      'Removes a node that will not come back; its certificate is worthless from then on. Paused sandboxes stay if a shared store has them.',
    params,
    faults: ['not_found', 'conflict'],
  }),
}
