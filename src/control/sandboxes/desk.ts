import type { Duplex } from 'node:stream'
import type { NodeId, SandboxId } from '../../model/ids.ts'
import type { Sandbox } from '../../model/sandbox.ts'
import type { Usage } from '../../placement/usage.ts'
import type { NodeMeasures, SandboxReport } from '../../wire/sandbox.ts'
import type { Control } from '../control.ts'
import type { Meter } from './meter.ts'
import type { Starts } from './starts.ts'

/**
 * What the verbs for sandboxes share. All of it can be lost: it is about what is under way in this process, and what was
 * under way elsewhere settles by what the nodes report.
 */
export interface Desk {
  control: Control
  nodes: Nodes
  /** Sandboxes that something is being done to right now. Nobody else judges them meanwhile. */
  busy: Map<SandboxId, Busy>
  starts: Starts
  /** In step with durable state, and with what is being placed. */
  usage: Usage
  meter: Meter
  /** What each node last said that it measured. */
  measures: Map<NodeId, NodeMeasures>
  /** Fires when the control plane stops: from then on nothing is decided any more. */
  signal: AbortSignal
}

/** A way to services of agents; `Sessions` is one. */
export interface Nodes {
  open(node: NodeId, service: string, request: unknown, options: { signal: AbortSignal }): Promise<Duplex>
}

export interface Busy {
  verb: 'create' | 'pause' | 'resume' | 'fork' | 'snapshot'
  /** How it ends; whoever wants the same waits for it. */
  done: Promise<Sandbox>
  /** The last thing that the node said of it meanwhile. */
  reported?: SandboxReport
}

export interface Asked {
  /** Who asks: for the audit, and so that one cannot crowd out others. */
  by: string
  /** Fires when whoever asks has gone. */
  signal: AbortSignal
}

/** Does something to one sandbox; meanwhile it is busy. The same verb asked again shares the first. */
export function occupy(
  desk: Desk,
  id: SandboxId,
  verb: Busy['verb'],
  work: (busy: Busy) => Promise<Sandbox>,
): Promise<Sandbox> {
  const entry: Busy = { verb, done: Promise.resolve(undefined as never) }
  desk.busy.set(id, entry)
  // To create begins before there is a sandbox to be occupied, and is timed as a whole.
  const doing = verb === 'create' ? work(entry) : desk.meter.time(verb, () => work(entry))
  entry.done = doing.finally(() => {
    if (desk.busy.get(id) === entry) desk.busy.delete(id)
  })
  // Whoever asked looks at it; nobody else must.
  entry.done.catch(() => {})
  return entry.done
}
