import { Gauge, Registry } from 'prom-client'
import type { Control } from '../control/control.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import type { Sessions } from '../control/sessions/sessions.ts'
import { allocationPhases } from '../model/allocation.ts'
import { nodePhases } from '../model/node.ts'
import { addSandboxMetrics } from './sandbox-metrics.ts'

export interface MetricsOptions {
  control: Control
  sessions: Sessions
  sandboxes: SandboxControl
}

/** What operators watch, for Prometheus: worked out from the store when it is asked for. */
export function createMetrics({ control, sessions, sandboxes }: MetricsOptions): Registry {
  const { store, clock } = control
  const registry = new Registry()
  const registers = [registry]
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(value())
      },
    })
  gauge('tutti_store_index', 'Index of the newest commit.', () => store.index)
  gauge('tutti_sessions', 'Connected agents.', () => sessions.count)
  gauge('tutti_jobs', 'Jobs, stopped ones included.', () => store.view.count('jobs'))
  gauge('tutti_jobs_dirty', 'Jobs that wait for planning.', () => store.view.count('dirty'))
  gauge('tutti_jobs_blocked', 'Jobs with copies that fit nowhere, or that failed too often.', () =>
    countWhere(store.view.all('jobs'), (job) => job.blocked !== ''),
  )
  gauge('tutti_planning_oldest_seconds', 'Age of the oldest mark that waits for planning.', () => {
    let oldest = clock.now()
    for (const mark of store.view.all('dirty')) oldest = Math.min(oldest, mark.since)
    return (clock.now() - oldest) / 1000
  })
  gauge('tutti_process_resident_memory_bytes', 'Resident memory of the control plane.', () => process.memoryUsage.rss())
  gauge('tutti_process_cpu_seconds_total', 'CPU used by the control plane.', () => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  })
  new Gauge({
    name: 'tutti_nodes',
    help: 'Nodes by phase.',
    labelNames: ['phase'],
    registers,
    collect() {
      for (const phase of nodePhases)
        this.set(
          { phase },
          countWhere(store.view.all('nodes'), (node) => node.phase === phase),
        )
    },
  })
  new Gauge({
    name: 'tutti_allocations',
    help: 'Allocations by phase.',
    labelNames: ['phase'],
    registers,
    collect() {
      const counts = new Map<string, number>(allocationPhases.map((phase) => [phase, 0]))
      for (const { phase } of store.view.all('allocations')) counts.set(phase, (counts.get(phase) ?? 0) + 1)
      for (const [phase, count] of counts) this.set({ phase }, count)
    },
  })
  addSandboxMetrics({ registry, control, sandboxes })
  return registry
}

function countWhere<T>(rows: Iterable<T>, holds: (row: T) => boolean): number {
  let count = 0
  for (const row of rows) if (holds(row)) count += 1
  return count
}
