import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { openBench } from './bench.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/** How long the command line takes, launcher and all, next to Node doing nothing. */

const rounds = 20
await using bench = await openBench()
const flags = ['--disable-warning=ExperimentalWarning']
const bare = await measure(process.execPath, [...flags, '-e', '0'])
const figures: Figure[] = [{ what: 'node that does nothing, p50', reached: bare, unit: 'ms' }]
for (const [args, asked] of [
  [['--help'], 120],
  [['ps'], 200],
  [['version'], 120],
] as const) {
  const reached = await measure('./tutti', args)
  figures.push({ what: `tutti ${args.join(' ')}, p50`, reached, unit: 'ms', asked, better: 'less' })
}
report('cli', figures)

async function measure(command: string, args: readonly string[]): Promise<number> {
  const times: number[] = []
  for (let round = 0; round < rounds + 2; round++) {
    const begun = performance.now()
    const child = spawn(command, args, {
      stdio: 'ignore',
      env: { ...process.env, TUTTI_HOME: bench.cluster.home },
    })
    const [code] = await once(child, 'exit')
    if (code !== 0) throw new Error(`tutti ${args.join(' ')} ended with ${code}`)
    if (round >= 2) times.push(performance.now() - begun)
  }
  return quantile(sorted(times), 0.5)
}
