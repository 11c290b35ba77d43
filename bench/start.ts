import { performance } from 'node:perf_hooks'
import type { Client } from '../src/client/client.ts'
import type { JobInput } from '../src/model/job.ts'
import { openBench } from './bench.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * From the API call to the process running, one at a time: apply, plan, commit, assign, start, report. "Running" is
 * when a watch of the API says so, which is later than the process itself. `bench/container.ts` has the containers.
 */

const rounds = 200
const figures: Figure[] = []
await using bench = await openBench()
await bench.cluster.startAgent('bench-node')
await using client = await bench.client()
figures.push(
  ...(await measure(
    'process',
    { driver: 'process', command: ['/bin/sleep', '100000'], resources: { memory: '8MiB' }, kill: { grace: 0 } },
    [15, 50],
  )),
)
report('start', figures)

async function measure(
  driver: string,
  task: JobInput['tasks'][string],
  [p50, p99]: [number, number],
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
