import { readFile } from 'node:fs/promises'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobInput } from '../src/model/job.ts'
import { type Bench, openBench } from './bench.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * What the control plane carries: small jobs from many clients, one large job, and a restart with a large store. The
 * control plane is a process of its own, agents and clients another, all on this machine's cores.
 */

const figures: Figure[] = []
{
  await using bench = await openBench()
  await bench.startFleet(4)
  figures.push(...(await smallJobs(bench, { clients: 32, jobs: 10_000 })))
}
{
  await using bench = await openBench()
  await bench.startFleet(1000)
  figures.push(...(await idleFleet(bench, { seconds: 20 })))
  figures.push(await oneLargeJob(bench, 10_000))
  figures.push(await heldAllocations(bench, 100_000))
}
report('jobs', figures)

async function smallJobs(bench: Bench, { clients, jobs }: { clients: number; jobs: number }): Promise<Figure[]> {
  let next = 0
  const latencies: number[] = []
  const begun = performance.now()
  await Promise.all(
    Array.from({ length: clients }, async () => {
      await using client = await bench.client()
      while (next < jobs) {
        const name = `job-${next++}`
        const spec: JobInput = {
          name,
          type: 'batch',
          tasks: { main: { driver: 'fake', resources: { memory: '1MiB' }, config: { runMs: 1 } } },
        }
        const at = performance.now()
        await client.applyJob({ job: name, body: { spec } })
        latencies.push(performance.now() - at)
      }
    }),
  )
  const submitted = performance.now() - begun
  await using client = await bench.client()
  for (;;) {
    const { counts } = await client.status()
    if ((counts.allocations ?? 0) >= jobs && counts.live === 0) break
    await sleep(20)
  }
  const done = performance.now() - begun
  const order = sorted(latencies)
  return [
    {
      what: `jobs submitted by ${clients} clients, durable`,
      reached: (jobs * 1000) / submitted,
      unit: 'jobs/s',
      asked: 2000,
      better: 'more',
    },
    { what: 'the same jobs, until all have run', reached: (jobs * 1000) / done, unit: 'jobs/s' },
    { what: 'one submission, p50', reached: quantile(order, 0.5), unit: 'ms' },
    { what: 'one submission, p99', reached: quantile(order, 0.99), unit: 'ms' },
  ]
}

/** What a thousand connected agents cost that have nothing to do but beat. */
async function idleFleet(bench: Bench, { seconds }: { seconds: number }): Promise<Figure[]> {
  await sleep(3000)
  const before = await cpuSeconds(bench.serverPid)
  await sleep(seconds * 1000)
  const share = ((await cpuSeconds(bench.serverPid)) - before) / seconds
  return [
    {
      what: '1,000 agents beating: control plane CPU',
      reached: share * 100,
      unit: '% of a core',
      asked: 25,
      better: 'less',
    },
    {
      what: '1,000 agents beating: control plane memory',
      reached: await residentMiB(bench.serverPid),
      unit: 'MiB',
      asked: 400,
      better: 'less',
    },
  ]
}

/** User and system time of a process (proc(5)); Linux counts it in hundredths. */
async function cpuSeconds(pid: number): Promise<number> {
  const [, fields = ''] = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')
  const [user = 0, system = 0] = fields.split(' ').slice(11, 13).map(Number)
  return (user + system) / 100
}

async function residentMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8')
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? Number.NaN) / 1024
}

async function oneLargeJob(bench: Bench, count: number): Promise<Figure> {
  await using client = await bench.client()
  const spec: JobInput = {
    name: 'large',
    count,
    tasks: { main: { driver: 'fake', resources: { cpu: 10, memory: '16MiB' } } },
  }
  const begun = performance.now()
  await client.applyJob({ job: 'large', body: { spec } })
  await bench.until(client, (counts) => (counts.live ?? 0) >= count)
  return {
    what: `${count} copies on 1,000 nodes, submit to all placed and durable`,
    reached: performance.now() - begun,
    unit: 'ms',
    asked: 1000,
    better: 'less',
  }
}

async function heldAllocations(bench: Bench, total: number): Promise<Figure> {
  {
    await using client = await bench.client()
    for (let copies = 10_000, job = 0; copies < total; copies += 30_000, job++) {
      const count = Math.min(30_000, total - copies)
      const spec: JobInput = {
        name: `more-${job}`,
        count,
        tasks: { main: { driver: 'fake', resources: { cpu: 10, memory: '16MiB' } } },
      }
      await client.applyJob({ job: spec.name, body: { spec } })
    }
    await bench.until(client, (counts) => (counts.live ?? 0) >= total)
  }
  const restart = await bench.restartServer()
  return {
    what: `restart with ${total} allocations, to the first answered request`,
    reached: restart,
    unit: 'ms',
    asked: 3000,
    better: 'less',
  }
}
