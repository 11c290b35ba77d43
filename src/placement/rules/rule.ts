import type { JobSpec } from '../../model/job.ts'
import type { Node } from '../../model/node.ts'
import type { Ask, Room } from '../room.ts'

/**
 * One reason why a node cannot take a copy. `passes` is asked of every node and must be quick; `refusal` is asked only
 * of nodes that do not pass, when somebody is to be told why.
 */

/** Looks at what the node is; the answer holds until the node changes. */
export interface NodeRule {
  readonly name: string
  passes(node: Node, spec: JobSpec): boolean
  refusal(node: Node, spec: JobSpec): Refusal
}

/** Looks at the room that is left; the answer changes with every placement. */
export interface RoomRule {
  readonly name: string
  passes(room: Room, ask: Ask): boolean
  refusal(room: Room, ask: Ask): Refusal
}

/** What one node lacks. Nodes refused in the same words are counted together. */
export interface Refusal {
  /** What follows "1 …" and what follows "3 …". */
  words: readonly [one: string, many: string]
  /** Of a quantity: how much is asked for, how much is free, and how such an amount is written. */
  short?: { needs: number; free: number; format: (amount: number) => string }
  /** What would help, as an order: "add a node with …". */
  help: string
}
