import { silentLog } from '../kit/log.ts'
import { seededRandom } from '../kit/random.ts'
import { SteppedClock } from '../kit/stepped-clock.ts'
import type { AllocationStatus } from '../model/allocation.ts'
import type { AllocationId, NodeId } from '../model/ids.ts'
import { encodeId } from '../model/ids.ts'
import { type JobInput, JobSpec } from '../model/job.ts'
import type { NodeFacts } from '../model/node.ts'
import { openStore } from '../store/log-store.ts'
import { MemoryEngine } from '../store/memory/memory-engine.ts'
import { joinedNode } from './actions/enroll-node.ts'
import { beginSession } from './actions/node-session.ts'
import { noteReport } from './actions/note-report.ts'
import type { Control } from './control.ts'
import { planJobs } from './loops/planning.ts'
import { watchTimers } from './loops/timers.ts'

/** A control plane without its outside, in virtual time: for tests of actions and loops. */
export interface TestControl extends Control, AsyncDisposable {
  clock: SteppedClock
  /** Lets everything happen that needs no more than a moment. */
  settle(): Promise<void>
  addNode(name: string, facts?: Partial<NodeFacts>): Promise<NodeId>
  /** The agent of the allocation's node says this of it. */
  report(id: AllocationId, status: Partial<AllocationStatus>): Promise<void>
}

export async function openTestControl(): Promise<TestControl> {
  const clock = new SteppedClock()
  const random = seededRandom('control')
  const store = await openStore({ engine: new MemoryEngine(), clock, debug: true })
  const control: Control = { store, clock, random, log: silentLog }
  const stopping = new AbortController()
  const loops = [planJobs, watchTimers].map((run) => run(control, { signal: stopping.signal }))
  const settle = async () => {
    // Planning waits a few milliseconds for company; two rounds, as what it decides may mark jobs again.
    for (let turns = 0; turns < 4; turns++) await clock.advance(5)
  }
  return {
    ...control,
    clock,
    settle,
    addNode: async (name, facts = {}) => {
      const id = encodeId(random.bytes(10)) as NodeId
      await store.write((tx) => tx.put('nodes', joinedNode(tx.now, { id, name, labels: {}, keyFingerprint: 'key' })))
      await beginSession(control, id, { facts: { ...testFacts, ...facts }, now: clock.now(), keyFingerprint: 'key' })
      await settle()
      return id
    },
    report: async (id, status) => {
      const row = store.view.get('allocations', id)
      if (!row) throw new Error(`there is no allocation ${id}`)
      const epoch = store.view.get('nodes', row.node)?.epoch ?? 0
      const statuses = [{ id, phase: row.phase, healthy: false, tasks: {}, ...status }]
      await noteReport(control, { node: row.node, epoch, statuses, events: [] })
      await settle()
    },
    [Symbol.asyncDispose]: async () => {
      stopping.abort()
      await clock.advance(0)
      await Promise.all(loops)
      await store.close()
    },
  }
}

export function testJob(input: Partial<JobInput> & { name: string }): JobSpec {
  return JobSpec.parse({
    tasks: { main: { driver: 'fake', resources: { cpu: 100, memory: '64MiB' } } },
    reschedule: { delay: '1s', maxDelay: '10s' },
    ...input,
  })
}

export const testFacts: NodeFacts = {
  os: 'linux',
  arch: 'amd64',
  hostname: 'test',
  version: '0',
  cores: 4,
  coreMHz: 1000,
  memory: 2 ** 30,
  disk: 2 ** 40,
  drivers: { fake: { healthy: true, attributes: {} } },
  attributes: {},
  counters: {},
  labels: {},
  volumes: [],
  address: '127.0.0.1',
  ports: [20_000, 20_100],
}
