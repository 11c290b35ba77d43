import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../src/client/client.ts'
import { busyboxImage } from '../src/main/demo/image.ts'
import { serveDemo } from '../src/main/demo/source.ts'
import type { JobInput } from '../src/model/job.ts'
import { openBench } from './bench.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * From the API call to the process running, one at a time: apply, plan, commit, assign, start, report. "Running" is
 * when a watch of the API says so, which is later than the process itself. `bench/container.ts` has the containers.
 */

const figures: Figure[] = []
await using bench = await openBench()
await bench.cluster.startAgent('bench-node')
await using client = await bench.client()
const process: Task = {
  driver: 'process',
  command: ['/bin/sleep', '100000'],
  resources: { memory: '8MiB' },
  kill: { grace: 0 },
}
figures.push(...(await measure('process', process, { rounds: 200, asked: [15, 50] })))
await using source = await serveDemo(new Map(), await busyboxImage(archOf()))
if (await canRunContainers()) {
  const image = `${source.address}/demo/hello:latest`
  const container: Task = { ...process, driver: 'container', image }
  figures.push(...(await measure('container', container, { rounds: 60, asked: [80, 250] })))
} else console.log('containers are not measured: there is no runtime, or no static busybox to make an image of')
report('start', figures)

type Task = JobInput['tasks'][string]

function archOf(): string {
  return globalThis.process.arch === 'arm64' ? 'arm64' : 'amd64'
}

async function canRunContainers(): Promise<boolean> {
  const { nodes } = await client.listNodes()
  const works = nodes.some((node) => node.facts?.drivers.container?.healthy)
  return works && (await fetch(`http://${source.address}/v2/`)).ok
}

/** The first ten rounds are not counted: in them the image is pulled, and code gets warm. */
async function measure(
  driver: string,
  task: Task,
  { rounds, asked: [p50, p99] }: { rounds: number; asked: [number, number] },
): Promise<Figure[]> {
  const times: number[] = []
  const running = watchRunning(client)
  for (let round = 0; round < rounds + 10; round++) {
    const name = `${driver}-${round}`
    const begun = performance.now()
    const seen = running.wait(name)
    await client.applyJob({ job: name, body: { spec: { name, tasks: { main: task } } } })
    await seen
    if (round >= 10) times.push(performance.now() - begun)
    await client.stopJob({ job: name })
    await ended(client, name)
  }
  running.stop()
  const order = sorted(times)
  return [
    {
      what: `API call to ${driver} running, p50`,
      reached: quantile(order, 0.5),
      unit: 'ms',
      asked: p50,
      better: 'less',
    },
    {
      what: `API call to ${driver} running, p99`,
      reached: quantile(order, 0.99),
      unit: 'ms',
      asked: p99,
      better: 'less',
    },
  ]
}

/** The end of one copy must not be measured with the start of the next. */
async function ended(client: Client, job: string): Promise<void> {
  while ((await client.getJob({ job })).job.copies.live > 0) await sleep(5)
}

function watchRunning(client: Client) {
  const waiting = new Map<string, () => void>()
  const stop = new AbortController()
  void (async () => {
    for await (const event of client.watch({ tables: ['allocations'] }, { signal: stop.signal })) {
      if (event.type === 'change' && event.table === 'allocations' && event.row?.phase === 'running') {
        waiting.get(event.row.job)?.()
      }
    }
  })()
  return {
    wait: (job: string) => new Promise<void>((resolve) => waiting.set(job, resolve)),
    stop: () => stop.abort(),
  }
}
