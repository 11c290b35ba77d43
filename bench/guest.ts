import { execFile } from 'node:child_process'
import { performance } from 'node:perf_hooks'
import { promisify } from 'node:util'
import type { Client } from '../src/client/client.ts'
import type { JobInput } from '../src/model/job.ts'
import { openBench } from './bench.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/** What a way into a task costs: a command through client, control plane and agent, next to the same run directly. */

const rounds = 200
const bulkMiB = 512
const figures: Figure[] = []
await using bench = await openBench()
await bench.cluster.startAgent('bench-node')
await using client = await bench.client()
const allocation = await startSleeper(client)

const direct: number[] = []
const through: number[] = []
for (let round = 0; round < rounds + 20; round++) {
  const a = await timed(() => promisify(execFile)('/bin/echo', ['hello']))
  const b = await timed(() => exec(client, allocation, ['/bin/echo', 'hello']))
  if (round < 20) continue
  direct.push(a)
  through.push(b)
}
const overhead = quantile(sorted(through), 0.5) - quantile(sorted(direct), 0.5)
figures.push(
  { what: 'echo run directly, p50', reached: quantile(sorted(direct), 0.5), unit: 'ms' },
  { what: 'echo by exec, p50', reached: quantile(sorted(through), 0.5), unit: 'ms' },
  { what: 'exec over running it directly, p50', reached: overhead, unit: 'ms', asked: 3, better: 'less' },
)

let received = 0
const ms = await timed(async () => {
  const execution = await client.exec({ allocation }, { command: ['/bin/sh', '-c', `head -c ${bulkMiB}M /dev/zero`] })
  execution.stdin.end()
  for await (const chunk of execution.stdout) received += (chunk as Buffer).length
  await execution.exited
})
if (received !== bulkMiB * 2 ** 20) throw new Error(`received ${received} bytes`)
figures.push({
  what: 'output of exec, from agent to client, two TLS hops',
  reached: received / 2 ** 20 / (ms / 1000),
  unit: 'MiB/s',
})
report('guest', figures)

async function startSleeper(client: Client): Promise<string> {
  const spec: JobInput = { name: 'sleeper', tasks: { main: { driver: 'process', command: ['/bin/sleep', '100000'] } } }
  await client.applyJob({ job: 'sleeper', body: { spec } })
  for (;;) {
    const { allocations } = await client.jobAllocations({ job: 'sleeper' })
    const running = allocations.find((row) => row.healthy)
    if (running) return running.id
  }
}

async function exec(client: Client, allocation: string, command: string[]): Promise<void> {
  const execution = await client.exec({ allocation }, { command })
  execution.stdin.end()
  execution.stdout.resume()
  execution.stderr?.resume()
  const { code } = await execution.exited
  if (code !== 0) throw new Error(`exit code ${code}`)
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now()
  await work()
  return performance.now() - begun
}
