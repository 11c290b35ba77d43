import { verify } from '../../blocks/operations/verify.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { exitCodes } from '../../cli/exit-codes.ts'
import { flagOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { counted, paint } from '../../cli/output/text.ts'
import { Fault } from '../../model/fault.ts'
import { formatDuration, formatSize } from '../../model/quantity.ts'
import { findBuild } from '../builds/find-build.ts'
import { slowProgress } from '../builds/progress.ts'
import { openBuildStore } from '../builds/store.ts'

/** `tutti build verify`: whether everything is as its hash says; 1 when anything is not. */
export async function run(cli: Cli, { args, options }: Given): Promise<number> {
  const all = flagOption(options, 'all')
  if (all === args.length > 0)
    throw new Fault(
      'invalid',
      all ? '--all takes no names of builds' : 'name builds, or take all of the store with --all',
    )
  const { objects, source } = await openBuildStore(cli, textOption(options, 'store'))
  const builds = []
  for (const text of args)
    builds.push(await findBuild(cli, { objects }, text, { context: textOption(options, 'context') }))
  const began = cli.clock.monotonic()
  using shown = slowProgress(cli)
  const report = await verify(source, {
    ...(all ? {} : { builds }),
    signal: cli.signal,
    onProgress: (sofar) => shown.show(() => `verified ${formatSize(sofar.bytes)} in ${counted(sofar.packs, 'pack')}`),
  })
  shown[Symbol.dispose]()
  const ms = Math.round(cli.clock.monotonic() - began)
  const { problems } = report
  await print(cli, options.output, {
    value: { store: objects.url, ms, ...report },
    names: () => [...new Set(problems.flatMap(({ build }) => build ?? []))],
    table: () => {
      const read = `${counted(report.builds, 'build')}, ${counted(report.packs, 'pack')}, ${counted(report.chunks, 'chunk')}, ${formatSize(report.bytes)} in ${formatDuration(ms)}`
      const lines = problems.map(({ message }) => `${paint(cli.stdout, 'bad', message)}\n`)
      const verdict =
        problems.length === 0
          ? paint(cli.stdout, 'good', 'everything is as it should be')
          : counted(problems.length, 'problem')
      return `${lines.join('')}${read}: ${verdict}\n`
    },
  })
  return problems.length > 0 ? exitCodes.failed : exitCodes.ok
}
