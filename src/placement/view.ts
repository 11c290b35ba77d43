import type { Allocation } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import type { Node } from '../model/node.ts'
import type { Job, Slot } from '../model/records.ts'

/** What planning may look at: a snapshot, or anything that answers like one. */
export interface PlanView {
  nodes(): Iterable<Node>
  node(id: NodeId): Node | undefined
  slots(job: string): Iterable<Slot>
  allocation(id: AllocationId): Allocation | undefined
  /** All of the job's allocations, live or not. */
  allocations(job: string): Iterable<Allocation>
  /** Which spec an allocation runs, to know what it holds. */
  spec(job: string, version: number): Job['spec'] | undefined
}
