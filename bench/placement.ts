import { performance } from 'node:perf_hooks'
import { whyNowhere } from '../src/placement/nowhere.ts'
import { plan } from '../src/placement/plan.ts'
import { ToyCluster, toyJob } from '../src/placement/toy-cluster.ts'

/**
 * How long planning takes. Nodes are half loaded by other jobs, and every job has a constraint and a dynamic port.
 * Prints a table for people, and one line of JSON last for programs.
 */

const rounds = 200
const GiB = 2 ** 30

interface Figure {
  what: string
  runs: number
  p50Ms: number
  p99Ms: number
  perSecond?: number
}

const figures: Figure[] = [
  measureMany({ nodes: 1000, count: 10_000, runs: 10 }),
  measureOne({ nodes: 1000 }),
  measureOne({ nodes: 10_000 }),
  measureConverged({ nodes: 1000, count: 10_000 }),
  measureRefusal({ nodes: 10_000 }),
]
console.table(figures)
console.log(JSON.stringify({ bench: 'placement', figures }))

function measureMany({ nodes, count, runs }: { nodes: number; count: number; runs: number }): Figure {
  const cluster = loaded(nodes)
  const job = cluster.apply(web(count))
  const figure = measure(`${count} copies on ${nodes} nodes`, runs, (seed) => {
    const made = plan(cluster, cluster.usage, job, { now: cluster.now, seed })
    if (made.moves.length !== count) throw new Error(`placed ${made.moves.length} of ${count}: ${made.blocked}`)
  })
  return { ...figure, perSecond: Math.round((count * 1000) / figure.p50Ms) }
}

function measureOne({ nodes }: { nodes: number }): Figure {
  const cluster = loaded(nodes)
  const job = cluster.apply(web(1))
  return measure(`1 copy on ${nodes} nodes`, rounds, (seed) => {
    const made = plan(cluster, cluster.usage, job, { now: cluster.now, seed })
    if (made.moves.length !== 1) throw new Error(made.blocked)
  })
}

function measureConverged({ nodes, count }: { nodes: number; count: number }): Figure {
  const cluster = loaded(nodes)
  const job = cluster.apply(web(count))
  const made = cluster.plan(job.name)
  for (const move of made.moves) if (move.kind === 'place') cluster.fill(job, move)
  cluster.obey()
  return measure(`nothing to do for ${count} copies`, rounds / 4, (seed) => {
    const idle = plan(cluster, cluster.usage, job, { now: cluster.now, seed })
    if (idle.moves.length !== 0 || !idle.settled) throw new Error('the job should have been as it ought to be')
  })
}

function measureRefusal({ nodes }: { nodes: number }): Figure {
  const cluster = loaded(nodes)
  const { spec } = cluster.apply(toyJob('large', {}, { resources: { memory: '64GiB' } }))
  return measure(`why 1 copy fits on none of ${nodes} nodes`, rounds / 4, () => {
    if (!whyNowhere(cluster.usage, spec).includes('lack memory')) throw new Error('memory should be what is lacking')
  })
}

/** Nodes of 16 cores and 32 GiB in four racks, with something on each of them. */
function loaded(nodes: number): ToyCluster {
  const cluster = new ToyCluster()
  const job = cluster.apply(toyJob('other', { count: nodes }, { resources: { cores: 4, memory: '8GiB' } }))
  for (let index = 0; index < nodes; index += 1) {
    const node = cluster.addNode(`n${index}`, { cores: 16, memory: 32 * GiB }, { rack: `r${index % 4}` })
    cluster.fill(job, { kind: 'place', slot: index, expects: null, node: node.id, ports: {} })
  }
  return cluster
}

function web(count: number) {
  return toyJob(
    'web',
    { count, constraints: ['label.rack in [r0, r1, r2, r3]'], ports: { http: 'dynamic' } },
    { resources: { cpu: '1GHz', memory: '1GiB' } },
  )
}

function measure(what: string, runs: number, run: (seed: number) => void): Figure {
  for (let warm = 0; warm < Math.min(runs, 20); warm += 1) run(warm)
  const times: number[] = []
  for (let seed = 0; seed < runs; seed += 1) {
    const begun = performance.now()
    run(seed)
    times.push(performance.now() - begun)
  }
  times.sort((a, b) => a - b)
  const at = (share: number) => Number((times[Math.min(runs - 1, Math.floor(runs * share))] ?? 0).toFixed(3))
  return { what, runs, p50Ms: at(0.5), p99Ms: at(0.99) }
}
