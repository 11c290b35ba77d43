import { type Allocation, type AllocationPhase, isLive } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import { type JobInput, JobSpec } from '../model/job.ts'
import { isOpen, type Node, NodeFacts } from '../model/node.ts'
import type { Job, Slot } from '../model/records.ts'
import { askOf, fit, usageOf } from './fit.ts'
import type { Move, PlaceMove, Plan } from './move.ts'
import { type PlanOptions, plan } from './plan.ts'
import { Usage } from './usage.ts'
import type { PlanView } from './view.ts'

/**
 * A cluster in memory for tests and measurements of planning: it keeps the records that the control plane would,
 * commits moves with the same checks, and lets agents do as they are told, or fail. Time stands until it is moved.
 */
export class ToyCluster implements PlanView {
  now = 1_000_000
  seed = 1
  readonly usage = new Usage()
  readonly #nodes = new Map<NodeId, Node>()
  readonly #jobs = new Map<string, Job>()
  readonly #specs = new Map<string, JobSpec>()
  readonly #slots = new Map<string, Map<number, Slot>>()
  readonly #allocations = new Map<AllocationId, Allocation>()
  #ids = 0

  nodes(): Iterable<Node> {
    return this.#nodes.values()
  }
  node(id: NodeId): Node | undefined {
    return this.#nodes.get(id)
  }
  slots(job: string): Iterable<Slot> {
    return this.#slots.get(job)?.values() ?? []
  }
  allocation(id: AllocationId): Allocation | undefined {
    return this.#allocations.get(id)
  }
  allocations(job: string): Iterable<Allocation> {
    return [...this.#allocations.values()].filter((allocation) => allocation.job === job)
  }
  spec(job: string, version: number): JobSpec | undefined {
    return this.#specs.get(`${job}@${version}`)
  }

  job(name: string): Job {
    const job = this.#jobs.get(name)
    if (!job) throw new Error(`no job "${name}"`)
    return job
  }
  jobs(): Job[] {
    return [...this.#jobs.values()]
  }
  named(name: string): Node {
    const node = [...this.#nodes.values()].find((each) => each.name === name)
    if (!node) throw new Error(`no node "${name}"`)
    return node
  }
  live(job?: string): Allocation[] {
    return [...this.#allocations.values()].filter((each) => isLive(each) && (job === undefined || each.job === job))
  }
  newest(job: string, index: number): Allocation | undefined {
    const id = this.#slots.get(job)?.get(index)?.allocation
    return id ? this.#allocations.get(id) : undefined
  }
  /** Names of the nodes of the job's live copies, by slot. */
  places(job: string): string[] {
    const live = this.live(job).sort((a, b) => a.slot - b.slot)
    return live.map((allocation) => this.#nodes.get(allocation.node)?.name ?? '?')
  }

  addNode(name: string, facts: Partial<NodeFacts> = {}, labels: Record<string, string> = {}): Node {
    const node: Node = {
      id: this.#id() as NodeId,
      name,
      phase: 'ready',
      eligible: true,
      drain: null,
      labels,
      facts: toyFacts(name, facts),
      epoch: 1,
      since: this.now,
      joinedAt: this.now,
      keyFingerprint: '',
    }
    return this.#putNode(node)
  }

  changeNode(name: string, change: Partial<Node>): Node {
    return this.#putNode({ ...this.named(name), ...change })
  }

  /** The lease ran out: what lived there is lost. */
  loseNode(name: string): void {
    const node = this.changeNode(name, { phase: 'lost' })
    for (const allocation of this.live()) if (allocation.node === node.id) this.end(allocation, 'lost')
  }

  apply(input: JobInput): Job {
    const spec = JobSpec.parse(input)
    const before = this.#jobs.get(spec.name)
    const version = (before?.version ?? 0) + 1
    const job: Job = {
      name: spec.name,
      version,
      spec,
      stopped: false,
      createdAt: this.now,
      changedAt: this.now,
      round: (before?.round ?? 0) + 1,
      blocked: '',
      settled: before?.settled ?? version,
    }
    this.#jobs.set(spec.name, job)
    this.#specs.set(`${spec.name}@${version}`, spec)
    for (const slot of [...this.slots(spec.name)]) this.putSlot({ ...slot, failures: [], failed: 0, notBefore: 0 })
    return job
  }

  stopJob(name: string): void {
    this.#jobs.set(name, { ...this.job(name), stopped: true })
  }

  putSlot(slot: Slot): void {
    const slots = this.#slots.get(slot.job) ?? new Map<number, Slot>()
    this.#slots.set(slot.job, slots.set(slot.index, slot))
  }

  putAllocation(allocation: Allocation): Allocation {
    this.#allocations.set(allocation.id, allocation)
    const spec = this.spec(allocation.job, allocation.version)
    if (isLive(allocation) && spec) this.usage.add(allocation, spec)
    else this.usage.remove(allocation)
    return allocation
  }

  plan(name: string, options: Partial<PlanOptions> = {}): Plan {
    return plan(this, this.usage, this.job(name), { now: this.now, seed: this.seed++, ...options })
  }

  /** Carries out what still holds, as the control plane would; says how many moves were refused. */
  commit(made: Plan): number {
    const job = this.job(made.job)
    return made.moves.filter((move) => !this.#commitMove(job, move)).length
  }

  /** Begins a new allocation, unchecked. */
  fill(job: Job, move: PlaceMove): void {
    const id = this.#id() as AllocationId
    this.putAllocation({
      id,
      job: job.name,
      version: job.version,
      slot: move.slot,
      node: move.node,
      generation: 0,
      desired: 'run',
      ports: move.ports,
      phase: 'pending',
      healthy: false,
      tasks: {},
      createdAt: this.now,
      changedAt: this.now,
    })
    const empty: Slot = {
      job: job.name,
      index: move.slot,
      allocation: null,
      failures: [],
      failed: 0,
      notBefore: 0,
      completedRound: null,
    }
    this.putSlot({ ...(this.#slots.get(job.name)?.get(move.slot) ?? empty), allocation: id })
  }

  /** Plans and commits once. */
  step(name: string): Plan {
    const made = this.plan(name)
    this.commit(made)
    return made
  }

  /** Agents do as told: what should stop has stopped, what should run runs and is healthy. */
  obey(): void {
    for (const allocation of this.live()) {
      if (allocation.desired === 'stop') this.end(allocation, 'stopped')
      else if (!allocation.healthy) {
        this.putAllocation({ ...allocation, phase: 'running', healthy: true, healthyAt: this.now, changedAt: this.now })
      }
    }
  }

  end(allocation: Allocation, phase: Extract<AllocationPhase, 'complete' | 'failed' | 'stopped' | 'lost'>): void {
    this.putAllocation({ ...allocation, phase, healthy: false, changedAt: this.now })
    const slot = this.#slots.get(allocation.job)?.get(allocation.slot)
    if (slot?.allocation !== allocation.id) return
    if (phase === 'complete')
      this.putSlot({ ...slot, failures: [], failed: 0, completedRound: this.job(allocation.job).round })
    if (phase !== 'failed') return
    const failure = { allocation: allocation.id, node: allocation.node, at: this.now, message: 'exit code 1' }
    const notBefore = this.now + this.job(allocation.job).spec.reschedule.delay
    this.putSlot({ ...slot, failures: [...slot.failures, failure].slice(-10), failed: slot.failed + 1, notBefore })
  }

  /** Steps and obeys until nothing changes any more; says how many steps that took. */
  converge(mostSteps = 1000): number {
    for (let steps = 0; steps < mostSteps; steps += 1) {
      let moves = 0
      let wakeAt = Number.POSITIVE_INFINITY
      for (const { name } of this.jobs()) {
        const made = this.step(name)
        moves += made.moves.length
        wakeAt = Math.min(wakeAt, made.wakeAt ?? wakeAt)
      }
      const restless = this.live().some((each) => each.desired === 'stop' || !each.healthy)
      this.obey()
      if (moves > 0 || restless) continue
      if (wakeAt === Number.POSITIVE_INFINITY) return steps
      this.now = Math.max(this.now + 1, wakeAt)
    }
    throw new Error(`the cluster did not come to rest in ${mostSteps} steps`)
  }

  #commitMove(job: Job, move: Move): boolean {
    const slot = this.#slots.get(job.name)?.get(move.slot)
    const current = this.newest(job.name, move.slot)
    if ((slot?.allocation ?? null) !== move.expects) return false
    if (move.kind !== 'place') {
      if (!current || !isLive(current)) return false
      if (move.kind === 'keep') this.putAllocation({ ...current, version: job.version })
      else this.putAllocation({ ...current, desired: 'stop', reason: move.reason })
      return true
    }
    const node = this.#nodes.get(move.node)
    if ((current && isLive(current)) || !node || !isOpen(node)) return false
    const there = this.live().filter((each) => each.node === node.id)
    const used = usageOf(there, (name, version) => this.spec(name, version))
    if (fit(node, used, askOf(job.spec), move.ports)) return false
    this.fill(job, move)
    return true
  }

  #putNode(node: Node): Node {
    this.#nodes.set(node.id, node)
    this.usage.setNode(node)
    return node
  }

  #id(): string {
    this.#ids += 1
    return this.#ids.toString(32).padStart(16, '0')
  }
}

/** A machine of four cores and 8 GiB on which every driver is well. */
export function toyFacts(name: string, facts: Partial<NodeFacts> = {}): NodeFacts {
  return NodeFacts.parse({
    os: 'linux',
    arch: 'amd64',
    hostname: name,
    version: '0.1.0',
    cores: 4,
    coreMHz: 2500,
    memory: 8 * 2 ** 30,
    disk: 100 * 2 ** 30,
    drivers: { fake: { healthy: true }, process: { healthy: true }, container: { healthy: true } },
    address: '127.0.0.1',
    ...facts,
  })
}

/** A job of one task that asks for what `resources` says. */
export function toyJob(
  name: string,
  job: Partial<JobInput> = {},
  task: Partial<JobInput['tasks'][string]> = {},
): JobInput {
  return { name, tasks: { main: { driver: 'fake', ...task } }, ...job }
}
