import { benchBuild } from '../../blocks/operations/bench.ts'
import type { ImageName } from '../../blocks/operations/images.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { countOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { table } from '../../cli/output/table.ts'
import { Fault } from '../../model/fault.ts'
import { formatSize } from '../../model/quantity.ts'
import { findBuild } from '../builds/find-build.ts'
import { openBuildStore } from '../builds/store.ts'

/** `tutti build bench`: how fast an image can be read from its store, in order, anywhere, and by ten readers. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const store = await openBuildStore(cli, textOption(options, 'store'))
  const reads = countOption(options, 'reads') ?? 500
  if (reads === 0) throw new Fault('invalid', '--reads needs at least 1')
  const image = (textOption(options, 'image') ?? 'disk') as ImageName
  const id = await findBuild(cli, store, args[0] ?? '', { context: textOption(options, 'context') })
  const { clock, random, signal } = cli
  const figures = await benchBuild(store.source, id, { image, reads, clock, random, signal })
  await print(cli, options.output, {
    value: { build: id, store: store.objects.url, image, figures },
    names: () => figures.map(({ pattern }) => pattern),
    table: () =>
      table(
        cli.stdout,
        ['PATTERN', 'READS', 'BYTES', 'PER SECOND', 'P50', 'P90', 'P99'],
        figures.map(({ pattern, reads: count, bytes, ms, p50, p90, p99 }) => [
          pattern,
          count,
          formatSize(bytes),
          formatSize((bytes / Math.max(ms, 0.001)) * 1000),
          ...[p50, p90, p99].map((time) => `${time.toFixed(2)} ms`),
        ]),
      ),
  })
}
