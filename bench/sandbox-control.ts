import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openSandboxApi } from '../src/api/testing.ts'
import { tuttiOf } from '../src/client/connect.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { openSqliteEngine } from '../src/store/sqlite/sqlite-engine.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * What the control plane adds to a sandbox: the API over HTTP, the store on disk, a node whose machines cost nothing
 * (its commands are processes of this machine). Usage: node bench/sandbox-control.ts [creates] [at once]
 */
const creates = Number(process.argv[2] ?? 200)
const atOnce = Number(process.argv[3] ?? 1000)

const directory = await mkdtemp(join(tmpdir(), 'tutti-bench-'))
const figures: Figure[] = []
try {
  const engine = openSqliteEngine({ directory, clock: systemClock })
  await using api = await openSandboxApi({ engine })
  const node = await api.world.addNode('a', { memory: 2 ** 40 })
  await api.world.addTemplate('base', [node])
  const tutti = tuttiOf(api.client)

  const created: number[] = []
  const answered: number[] = []
  for (let at = 0; at < creates; at += 1) {
    const begun = performance.now()
    const sandbox = await tutti.sandboxes.create()
    created.push(performance.now() - begun)
    const { stdout } = await sandbox.exec(['echo', 'hello'])
    if (stdout !== 'hello\n') throw new Error('the command did not answer')
    answered.push(performance.now() - begun)
    await sandbox.kill()
  }
  for (const [what, values] of [
    ['create', sorted(created)],
    ['create, then the output of a command (a process is started)', sorted(answered)],
  ] as const) {
    figures.push({ what: `${what}, p50`, reached: quantile(values, 0.5), unit: 'ms' })
    figures.push({ what: `${what}, p99`, reached: quantile(values, 0.99), unit: 'ms' })
  }

  const begun = performance.now()
  await Promise.all(Array.from({ length: atOnce }, () => tutti.sandboxes.create()))
  figures.push({ what: `${atOnce} creates at once`, reached: performance.now() - begun, unit: 'ms' })
} finally {
  await rm(directory, { recursive: true, force: true })
}
report('sandbox-control', figures)
process.exit(0)
