import { spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { finished } from 'node:stream/promises'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { parseArgs } from 'node:util'

/**
 * Everything that must hold before a change lands: types, lint and format, then all tests.
 * `./check unit`, `./check system` and `./check conformance` run a part; `./check FILE…` runs files.
 * The last line counts: `N passed, N failed, N skipped`.
 */

const groups: Record<string, string[]> = {
  unit: ['src/**/*.test.ts', 'test/*.test.ts'],
  conformance: ['test/conformance/*.test.ts'],
  system: ['test/sim/*.test.ts', 'test/system/*.test.ts'],
}

const { positionals } = parseArgs({ allowPositionals: true })
const counts = { passed: 0, failed: 0, skipped: 0 }

const chosen = positionals.length === 0 ? Object.keys(groups) : positionals.filter((word) => word in groups)
const files = positionals.filter((word) => !(word in groups))
if (positionals.length === 0) {
  await step('types', ['tsc', '--noEmit'])
  await step('lint and format', ['biome', 'check', '--error-on-warnings', '.'])
}
// Pure tests side by side; those with processes, ports and mounts one file at a time, so that a slow machine stays honest.
for (const group of chosen) await runFiles(globSync(groups[group] ?? []).sort(), group === 'unit' ? 2 : 1)
if (files.length > 0) await runFiles(files, 1)

console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`)
process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1)

async function step(title: string, [command = '', ...args]: string[]): Promise<void> {
  console.log(`▶ ${title}`)
  const child = spawn(`node_modules/.bin/${command}`, args, { stdio: 'inherit' })
  const code = await new Promise<number>((resolve) => child.once('exit', (exit) => resolve(exit ?? 1)))
  if (code === 0) counts.passed += 1
  else counts.failed += 1
}

async function runFiles(paths: string[], concurrency: number): Promise<void> {
  if (paths.length === 0) return
  const stream = run({
    files: paths,
    concurrency,
    isolation: 'process',
    execArgv: ['--disable-warning=ExperimentalWarning'],
  })
  stream.on('test:pass', (event) => {
    if (event.details.type === 'suite') return
    if (event.skip !== undefined || event.todo !== undefined) counts.skipped += 1
    else counts.passed += 1
  })
  stream.on('test:fail', (event) => {
    if (event.details.type !== 'suite') counts.failed += 1
  })
  const report = stream.compose(spec)
  report.pipe(process.stdout, { end: false })
  await finished(report)
}
