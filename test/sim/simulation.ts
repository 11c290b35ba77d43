import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { type Agent, startAgent } from '../../src/agent/agent.ts'
import { MemoryLedger } from '../../src/agent/ledger/memory.ts'
import { TestMachine } from '../../src/agent/test-driver.ts'
import { memoryWorkspace } from '../../src/agent/workspace/memory.ts'
import { applyJob } from '../../src/control/actions/apply-job.ts'
import { joinedNode } from '../../src/control/actions/enroll-node.ts'
import { silenceAll } from '../../src/control/actions/node-session.ts'
import { stopJob } from '../../src/control/actions/stop-job.ts'
import type { Control } from '../../src/control/control.ts'
import { watchLeases } from '../../src/control/loops/leases.ts'
import { planJobs } from '../../src/control/loops/planning.ts'
import { watchSilence } from '../../src/control/loops/silence.ts'
import { watchTimers } from '../../src/control/loops/timers.ts'
import { Sessions } from '../../src/control/sessions/sessions.ts'
import { testFacts } from '../../src/control/testing.ts'
import { silentLog } from '../../src/kit/log.ts'
import { type Random, seededRandom } from '../../src/kit/random.ts'
import { SteppedClock } from '../../src/kit/stepped-clock.ts'
import { type Allocation, isLive } from '../../src/model/allocation.ts'
import { encodeId, type NodeId } from '../../src/model/ids.ts'
import type { JobSpec } from '../../src/model/job.ts'
import { versionKey } from '../../src/model/records.ts'
import { askOf, fit, usageOf } from '../../src/placement/fit.ts'
import { openStore } from '../../src/store/log-store.ts'
import { MemoryEngine, MemoryMedium } from '../../src/store/memory/memory-engine.ts'
import type { Commit, Store } from '../../src/store/store.ts'
import { memoryNetwork } from '../../src/wire/memory-link.ts'

interface SimulatedNode {
  id: NodeId
  name: string
  machine: TestMachine
  ledger: MemoryLedger
  agent: Agent | undefined
  /** Set when the agent's process is killed: nothing that it still does counts. */
  dead: { yes: boolean }
}

interface RunningControl {
  control: Control
  crash: () => void
}

/**
 * The real control plane and real agents in virtual time, with everything outside them replaced by something that a
 * seed decides: the disk, the network, the machines, the moments at which things die. The same seed gives the same run.
 * What must always hold is checked at every commit.
 */
export class Simulation {
  readonly clock = new SteppedClock()
  readonly random: Random
  readonly nodes: SimulatedNode[] = []
  readonly #medium = new MemoryMedium()
  readonly #network: ReturnType<typeof memoryNetwork>
  #running: RunningControl | undefined
  /** Every write that was acknowledged to us, by job: what must be found after any crash. */
  readonly acknowledged = new Map<string, number>()
  commits = 0

  constructor(seed: string) {
    this.random = seededRandom(seed)
    this.#network = memoryNetwork({ clock: this.clock, random: this.random })
  }

  get store(): Store {
    assert.ok(this.#running, 'the control plane is down')
    return this.#running.control.store
  }

  get isUp(): boolean {
    return this.#running !== undefined
  }

  async startControl(): Promise<void> {
    const { clock, random } = this
    const engine = new MemoryEngine({ medium: this.#medium })
    const store = await openStore({ engine, clock, debug: true, turn: (flush) => queueMicrotask(flush) })
    const control: Control = { store, clock, random, log: silentLog }
    for (const [job, version] of this.acknowledged) {
      assert.ok(
        (store.view.get('jobs', job)?.version ?? 0) >= version,
        `version ${version} of ${job} was acknowledged and is gone`,
      )
    }
    store.subscribe((commit) => this.#check(store, commit))
    await silenceAll(control)
    const stopping = new AbortController()
    const sessions = new Sessions(control)
    for (const run of [planJobs, watchTimers, watchLeases]) void run(control, { signal: stopping.signal })
    void watchSilence(control, { sessions, signal: stopping.signal })
    const disconnect = this.#network.onAgent((link) => sessions.serve(link, { signal: stopping.signal }))
    this.#running = {
      control,
      crash: () => {
        disconnect()
        stopping.abort()
        void engine.close()
      },
    }
  }

  /** As `kill -9` does: whatever was not durable is gone, and nobody is told. */
  crashControl(): void {
    this.#running?.crash()
    this.#running = undefined
  }

  async addNode(name: string): Promise<void> {
    const id = encodeId(this.random.bytes(10)) as NodeId
    const keyFingerprint = createHash('sha256').update(id).digest('hex')
    await this.store.write((tx) => tx.put('nodes', joinedNode(tx.now, { id, name, labels: {}, keyFingerprint })))
    const node: SimulatedNode = {
      id,
      name,
      machine: new TestMachine(),
      ledger: new MemoryLedger(),
      agent: undefined,
      dead: { yes: true },
    }
    this.nodes.push(node)
    await this.startAgent(node)
  }

  async startAgent(node: SimulatedNode): Promise<void> {
    const dead = { yes: false }
    node.dead = dead
    node.agent = await startAgent({
      clock: this.clock,
      random: this.random,
      log: silentLog,
      ledger: node.ledger,
      workspace: memoryWorkspace,
      drivers: [node.machine.driver(this.clock, { crashed: () => dead.yes })],
      probe: { http: async () => {}, tcp: async () => {} },
      node: { id: node.id, name: node.name },
      facts: async () => ({ ...testFacts, hostname: node.name }),
      dial: async ({ services, signal }) => {
        if (dead.yes) return new Promise<never>(() => {})
        return this.#network.dial(node.id, { services, signal })
      },
    })
  }

  /** As `kill -9` does: its tasks go on. */
  crashAgent(node: SimulatedNode): void {
    node.dead.yes = true
    this.#network.reset(node.id)
    void node.agent?.close().catch(() => {})
    node.agent = undefined
  }

  cut(node: SimulatedNode): void {
    this.#network.cut(node.id)
  }

  heal(node: SimulatedNode): void {
    this.#network.heal(node.id)
  }

  async apply(spec: JobSpec): Promise<void> {
    const running = this.#running
    if (!running) return
    const { job } = await applyJob(running.control, spec, { by: 'simulation' })
    this.acknowledged.set(spec.name, job.version)
  }

  async stop(job: string): Promise<void> {
    if (this.#running && this.store.view.get('jobs', job))
      await stopJob(this.#running.control, job, { by: 'simulation' })
  }

  live(job: string): Allocation[] {
    return [...this.store.view.by('allocationsByJob', job)].filter(isLive)
  }

  /** Never two live allocations in one slot; never more on a node than fits. */
  #check(store: Store, commit: Commit): void {
    this.commits += 1
    const { view } = store
    for (const { table, row } of commit.changes) {
      if (table !== 'allocations' || !row) continue
      const siblings = [...view.by('allocationsByJob', row.job)].filter(
        (other) => other.slot === row.slot && isLive(other),
      )
      assert.ok(siblings.length <= 1, `slot ${row.job}/${row.slot} has ${siblings.length} live allocations`)
      const node = view.get('nodes', row.node)
      if (!node) continue
      const used = usageOf(
        view.by('liveAllocationsByNode', row.node),
        (job, version) => view.get('jobVersions', versionKey(job, version))?.spec,
      )
      const nothing = askOf({ tasks: {}, ports: {} } as unknown as JobSpec)
      assert.equal(
        fit(node, used, { ...nothing, cpuMHz: 0, cores: 0, memory: 0, disk: 0 }),
        undefined,
        `node ${node.name} holds more than it has`,
      )
    }
  }
}
