import type { AllocationId, NodeId } from '../model/ids.ts'

/**
 * One step towards what a job wants. It commits whole or not at all, and only while what it was decided on still holds:
 * the job's version, what the slot points at, and that the node still fits. Moves are independent of each other.
 */
export type Move = PlaceMove | StopMove | KeepMove

/** Begin a new allocation in a slot that has no live one. */
export interface PlaceMove {
  kind: 'place'
  slot: number
  /** What the slot must still point at. */
  expects: AllocationId | null
  node: NodeId
  ports: Record<string, number>
}

/** Ask the slot's live allocation to stop; the slot is filled again once it has ended. */
export interface StopMove {
  kind: 'stop'
  slot: number
  expects: AllocationId
  /** There are too many; it cannot stay on its node; it cannot become the newest version. The last two are replaced. */
  cause: 'excess' | 'leaving' | 'outdated'
  /** One sentence, shown to people. */
  reason: string
}

/** The live allocation may go on unchanged under the job's new version. */
export interface KeepMove {
  kind: 'keep'
  slot: number
  expects: AllocationId
}

export interface Plan {
  job: string
  /** The version that was planned for. */
  version: number
  moves: Move[]
  /** Why copies stay unplaced, per rule, with what would help; empty when none do. */
  blocked: string
  /** Every slot's copy is at this version and, for a service, healthy: no update is under way any more. */
  settled: boolean
  /** Copies that are to be stopped too, once these moves have made way. */
  later: number
  /** When to look again though nothing has changed; ms since the epoch, or null. */
  wakeAt: number | null
}
