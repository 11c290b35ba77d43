import type { Duplex } from 'node:stream'
import type { Log } from '../../kit/log.ts'
import type { Allocation } from '../../model/allocation.ts'
import { isTerminal } from '../../model/allocation.ts'
import type { AllocationId, NodeId } from '../../model/ids.ts'
import type { JobSpec } from '../../model/job.ts'
import { versionKey } from '../../model/records.ts'
import type { View } from '../../store/store.ts'
import type { AgentLink } from '../../wire/link.ts'
import type { Assignment, ControlMessage } from '../../wire/messages.ts'

/**
 * One connected agent: keeps it in step with what is assigned to its node. A full set first, then deltas, each from
 * what changed since the one before; what changes while a message is on its way is gathered into the next one.
 */
export class Session {
  readonly node: NodeId
  readonly epoch: number
  readonly instance: string
  readonly link: AgentLink
  readonly #view: () => View
  readonly #log: Log
  readonly #onClose: () => void
  /** Version of the set that the agent was last sent. */
  #version = 0
  #pending = new Map<AllocationId, Allocation | undefined>()
  #fullWanted = true
  #sending = false
  #closed = false

  constructor(options: {
    node: NodeId
    epoch: number
    instance: string
    link: AgentLink
    view: () => View
    log: Log
    onClose: () => void
  }) {
    this.node = options.node
    this.epoch = options.epoch
    this.instance = options.instance
    this.link = options.link
    this.#view = options.view
    this.#log = options.log
    this.#onClose = options.onClose
  }

  get version(): number {
    return this.#version
  }

  /** An allocation of this node changed in a way that its agent must know; undefined when it is to be forgotten. */
  note(id: AllocationId, row: Allocation | undefined): void {
    if (this.#fullWanted) return
    this.#pending.set(id, row)
    this.#pump()
  }

  /** Sends everything anew, at the start and when the agent lost step. */
  resync(): void {
    this.#fullWanted = true
    this.#pending.clear()
    this.#pump()
  }

  open(service: string, request: unknown, options: { signal: AbortSignal }): Promise<Duplex> {
    return this.link.open(service, request, options)
  }

  /** Ends the session at once, whether or not its link still answers. */
  close(): void {
    this.#closed = true
    this.#onClose()
  }

  #pump(): void {
    if (this.#sending || this.#closed) return
    this.#sending = true
    void this.#sendAll()
  }

  async #sendAll(): Promise<void> {
    try {
      // One turn of grace, so that what one commit changed for this node travels together.
      await Promise.resolve()
      for (let message = this.#next(); message && !this.#closed; message = this.#next()) await this.link.send(message)
    } catch (error) {
      // The end of the link is seen by whoever reads its messages; here it only means that nothing more can be said.
      this.#log.debug({ err: error, node: this.node }, 'an assignment could not be sent')
    } finally {
      this.#sending = false
    }
  }

  #next(): ControlMessage | undefined {
    if (this.#fullWanted) return this.#full()
    if (this.#pending.size === 0) return undefined
    const changes = [...this.#pending]
    this.#pending.clear()
    const specs: Record<string, JobSpec> = {}
    const put: Assignment[] = []
    const remove: AllocationId[] = []
    for (const [id, row] of changes) {
      const assignment = row && this.#assign(row, specs)
      if (assignment) put.push(assignment)
      else remove.push(id)
    }
    const base = this.#version
    this.#version += 1
    return { type: 'delta', base, version: this.#version, specs, put, remove }
  }

  #full(): ControlMessage {
    this.#fullWanted = false
    this.#pending.clear()
    const specs: Record<string, JobSpec> = {}
    const assignments: Assignment[] = []
    for (const row of this.#view().by('allocationsByNode', this.node)) {
      const assignment = row.phase === 'lost' ? undefined : this.#assign(row, specs)
      if (assignment) assignments.push(assignment)
    }
    this.#version += 1
    return { type: 'full', version: this.#version, specs, assignments }
  }

  #assign(row: Allocation, specs: Record<string, JobSpec>): Assignment | undefined {
    const key = versionKey(row.job, row.version)
    const spec = specs[key] ?? this.#view().get('jobVersions', key)?.spec
    if (!spec) return undefined
    specs[key] = spec
    // What has ended is never begun again, even by an agent that lost its memory of it.
    const desired = isTerminal(row.phase) ? 'stop' : row.desired
    return {
      id: row.id,
      job: row.job,
      version: row.version,
      slot: row.slot,
      generation: row.generation,
      desired,
      ports: row.ports,
      spec: key,
    }
  }
}

/** Does this change of an allocation concern its agent? What the agent itself reported does not. */
export function concernsAgent(row: Allocation | undefined, before: Allocation | undefined): boolean {
  if (!row || !before) return true
  if (row.phase === 'lost') return before.phase !== 'lost'
  return row.desired !== before.desired || row.generation !== before.generation || row.version !== before.version
}
