import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { Control } from '../control/control.ts'
import type { SandboxControl } from '../control/sandboxes/sandboxes.ts'
import { buildStatuses, sandboxPhases } from '../model/sandbox.ts'
import type { NodeMeasures } from '../wire/sandbox.ts'

interface Options {
  registry: Registry
  control: Control
  sandboxes: SandboxControl
}

/** From a clone that waited already to a large build over a slow line. */
const secondsBuckets = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]

/** Sandboxes for Prometheus: what the store says, what was done since the start, and what nodes said last of themselves. */
export function addSandboxMetrics({ registry, control, sandboxes }: Options): void {
  const registers = [registry]
  const { view } = control.store
  const states = (name: string, help: string, states: readonly string[], all: () => Iterable<string>) =>
    new Gauge({
      ...{ name, help, registers, labelNames: ['state'] },
      collect() {
        const counts = new Map<string, number>(states.map((state) => [state, 0]))
        for (const state of all()) counts.set(state, (counts.get(state) ?? 0) + 1)
        for (const [state, count] of counts) this.set({ state }, count)
      },
    })
  states('tutti_sandboxes', 'Sandboxes by state.', sandboxPhases, () =>
    eachOf(view.all('sandboxes'), (row) => row.phase),
  )
  states('tutti_builds', 'Builds by state.', buildStatuses, () => eachOf(view.all('builds'), (row) => row.status))
  countDone({ registry, control, sandboxes })
  tellNodes({ registry, control, sandboxes })
}

function countDone({ registry, control, sandboxes }: Options): void {
  const registers = [registry]
  const durations = new Histogram({
    ...{ name: 'tutti_sandbox_operation_seconds', registers, labelNames: ['operation'], buckets: secondsBuckets },
    help: 'How long it took to create, pause, resume, fork or snapshot a sandbox, or to build a template, well.',
  })
  const failures = new Counter({
    ...{ name: 'tutti_sandbox_operation_failures_total', registers, labelNames: ['operation', 'code'] },
    help: 'Of these, those that failed, by the code of the fault.',
  })
  const broken = new Counter({
    ...{ name: 'tutti_sandboxes_failed_total', registers },
    help: 'Sandboxes that ended without anybody having asked.',
  })
  sandboxes.desk.meter.subscribe(({ verb, ms, code }) => {
    if (code === undefined) durations.observe({ operation: verb }, ms / 1000)
    else failures.inc({ operation: verb, code })
  })
  control.store.subscribe(({ changes }) => {
    for (const change of changes)
      if (change.table === 'sandboxes' && change.row?.phase === 'failed' && change.before?.phase !== 'failed')
        broken.inc()
  })
}

function tellNodes({ registry, control, sandboxes }: Options): void {
  const { view } = control.store
  const registers = [registry]
  new Gauge({
    ...{ name: 'tutti_node_sandbox_memory_reserved_bytes', registers, labelNames: ['node'] },
    help: 'Memory that sandboxes hold of a node.',
    collect() {
      this.reset()
      for (const node of view.all('nodes')) {
        let bytes = 0
        for (const { reserved } of view.by('sandboxesHoldingRoom', node.id)) bytes += reserved.memory
        this.set({ node: node.name }, bytes)
      }
    },
  })
  const connected = function* (): Iterable<{ node: string; said: NodeMeasures }> {
    for (const { id, name, phase } of view.all('nodes')) {
      const said = sandboxes.desk.measures.get(id)
      if (said && phase === 'ready') yield { node: name, said }
    }
  }
  const one = (name: string, help: string, value: (said: NodeMeasures) => number | undefined) =>
    new Gauge({
      ...{ name, help, registers, labelNames: ['node'] },
      collect() {
        this.reset()
        for (const { node, said } of connected()) set(this, { node }, value(said))
      },
    })
  /** Counted on the node, and from 0 again when its agent or block server was started anew. */
  const parts = <L extends string>(kind: 'gauge' | 'counter', { name, help, label, values }: PartsOptions<L>) => {
    const labelNames = ['node', label]
    const each = function* () {
      for (const { node, said } of connected())
        for (const [part, value] of Object.entries(values(said))) yield { labels: { node, [label]: part }, value }
    }
    if (kind === 'gauge')
      return new Gauge({
        ...{ name, help, registers, labelNames },
        collect() {
          this.reset()
          for (const { labels, value } of each()) set(this, labels, value)
        },
      })
    return new Counter({
      ...{ name, help, registers, labelNames },
      collect() {
        this.reset()
        for (const { labels, value } of each()) if (value !== undefined) this.inc(labels, value)
      },
    })
  }
  one('tutti_node_memory_free_bytes', 'Memory that a node has left for sandboxes.', ({ freeMemory }) => freeMemory)
  parts('gauge', {
    name: 'tutti_node_huge_page_bytes',
    help: 'Memory that a node has in huge pages: all that is set aside, and of it what is free.',
    label: 'kind',
    values: ({ hugePages }) => ({ set_aside: hugePages?.setAsideBytes, free: hugePages?.freeBytes }),
  })
  parts('counter', {
    name: 'tutti_node_sandbox_starts_total',
    help: 'Starts by what was made ahead for them: a VM that ran, a VMM that waited, or none.',
    label: 'ahead',
    values: ({ starts }) => starts,
  })
  parts('gauge', {
    name: 'tutti_node_chunk_bytes',
    help: 'Bytes of chunks on the disk of a node: in whole packs, and fetched of others.',
    label: 'kind',
    values: ({ blocks }) => ({ whole: blocks?.wholeBytes, fetched: blocks?.fetchedBytes }),
  })
  parts('counter', {
    name: 'tutti_node_block_bytes_total',
    help: 'Bytes that machines read and wrote of their disks, and that were downloaded from the shared store.',
    label: 'direction',
    values: ({ blocks }) => ({
      read: blocks?.readBytes,
      written: blocks?.writtenBytes,
      downloaded: blocks?.downloadedBytes,
    }),
  })
}

interface PartsOptions<L extends string> {
  name: string
  help: string
  label: L
  values: (said: NodeMeasures) => Record<string, number | undefined>
}

function set(gauge: Gauge, labels: Record<string, string>, value: number | undefined): void {
  if (value !== undefined) gauge.set(labels, value)
}

function* eachOf<T>(rows: Iterable<T>, state: (row: T) => string): Iterable<string> {
  for (const row of rows) yield state(row)
}
