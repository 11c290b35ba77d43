import { Queue } from '../kit/queue.ts'
import { seededRandom } from '../kit/random.ts'
import type { SteppedClock } from '../kit/stepped-clock.ts'
import type { AllocationStatus } from '../model/allocation.ts'
import { encodeId } from '../model/ids.ts'
import { type JobInput, JobSpec } from '../model/job.ts'
import type { NodeFacts } from '../model/node.ts'
import type { ControlLink } from '../wire/link.ts'
import type { AgentEvent, AgentMessage, Assignment, ControlMessage } from '../wire/messages.ts'

/** What the agent's tests stand on: a control plane that is a few lines long, and short ways to make assignments. */

const random = seededRandom('ids')

export function newId(): Assignment['id'] {
  return encodeId(random.bytes(10)) as Assignment['id']
}

export function jobOf(input: Omit<JobInput, 'name'> & { name?: string }): JobSpec {
  return JobSpec.parse({ name: 'web', ...input })
}

export function assignmentOf(job: JobSpec, changes: Partial<Assignment> = {}): Assignment {
  return {
    id: newId(),
    job: job.name,
    version: 1,
    slot: 0,
    generation: 0,
    desired: 'run',
    ports: {},
    spec: `${job.name}/1`,
    ...changes,
  }
}

export const testFacts: NodeFacts = {
  os: 'linux',
  arch: 'amd64',
  hostname: 'host',
  version: '0',
  cores: 4,
  coreMHz: 2000,
  memory: 2 ** 33,
  disk: 2 ** 36,
  drivers: {},
  attributes: { kernel: '6.1' },
  counters: {},
  labels: {},
  volumes: [],
  address: '127.0.0.1',
  ports: [20_000, 32_000],
}

/** The other end: keeps the set, answers hello, and remembers what it was told. */
export class TestControl {
  readonly assignments = new Map<string, { assignment: Assignment; spec: JobSpec }>()
  readonly statuses = new Map<string, AllocationStatus>()
  readonly events: AgentEvent[] = []
  readonly received: AgentMessage['type'][] = []
  sessions = 0
  open = 0
  mostOpen = 0
  reachable = true
  /** Whether reports are answered. */
  noting = true
  version = 0
  facts: NodeFacts | undefined
  taken = -1
  #down: Queue<ControlMessage> | undefined

  dial = async (_options: { signal: AbortSignal }): Promise<ControlLink> => {
    if (!this.reachable) throw new Error('connection refused')
    const down = new Queue<ControlMessage>()
    this.#down = down
    this.sessions += 1
    this.open += 1
    this.mostOpen = Math.max(this.open, this.mostOpen)
    let closed = false
    return {
      messages: down,
      send: async (message) => {
        if (closed || this.#down !== down) throw new Error('the link is closed')
        this.#hear(message, down)
      },
      [Symbol.asyncDispose]: async () => {
        if (!closed) this.open -= 1
        closed = true
        down.end()
      },
    }
  }

  /** Cuts the connection. */
  cut(): void {
    this.#down?.end(new Error('the wire was cut'))
    this.#down = undefined
  }

  say(message: ControlMessage): void {
    this.#down?.push(message)
  }

  full(): void {
    this.version += 1
    const all = [...this.assignments.values()]
    const specs = Object.fromEntries(all.map(({ assignment, spec }) => [assignment.spec, spec]))
    this.say({ type: 'full', version: this.version, specs, assignments: all.map(({ assignment }) => assignment) })
  }

  put(spec: JobSpec, ...assignments: Assignment[]): void {
    for (const assignment of assignments) this.assignments.set(assignment.id, { assignment, spec })
    const base = this.version
    this.version += 1
    this.say({
      type: 'delta',
      base,
      version: this.version,
      specs: Object.fromEntries(assignments.map((assignment) => [assignment.spec, spec])),
      put: assignments,
      remove: [],
    })
  }

  change(id: string, changes: Partial<Assignment>): void {
    const known = this.assignments.get(id)
    if (known) this.put(known.spec, { ...known.assignment, ...changes })
  }

  remove(...ids: Assignment['id'][]): void {
    for (const id of ids) this.assignments.delete(id)
    const base = this.version
    this.version += 1
    this.say({ type: 'delta', base, version: this.version, specs: {}, put: [], remove: ids })
  }

  phase(id: string): string | undefined {
    return this.statuses.get(id)?.phase
  }

  kinds(): string[] {
    return this.events.map(({ kind }) => kind)
  }

  #hear(message: AgentMessage, down: Queue<ControlMessage>): void {
    this.received.push(message.type)
    if (message.type === 'hello') {
      this.facts = message.facts
      down.push({ type: 'welcome', epoch: this.sessions, now: 0, beatMs: 5000, leaseMs: 15_000 })
      this.full()
    } else if (message.type === 'report') {
      for (const status of message.statuses) this.statuses.set(status.id, status)
      this.events.push(...message.events)
      if (this.noting) down.push({ type: 'noted', report: message.report })
    } else if (message.type === 'resync') this.full()
    else if (message.type === 'facts') this.facts = message.facts
    else if (message.type === 'taken') this.taken = message.version
  }
}

/** Waits by the stepped clock until the control plane was told so. */
export async function untilPhase(clock: SteppedClock, control: TestControl, id: string, phase: string): Promise<void> {
  await clock.until(() => control.phase(id) === phase, { what: `allocation ${id} being ${phase}` })
}
