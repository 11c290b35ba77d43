import { formatSize } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { facts } from '../output/table.ts'
import { moment } from '../output/text.ts'

/** `tutti sandbox metrics`: what it uses now. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const [sandbox = ''] = args
  const { metrics } = await client.sandboxMetrics({ sandbox }, { signal: cli.signal })
  await print(cli, options.output, {
    value: metrics,
    names: () => [sandbox],
    table: () =>
      facts(cli.stdout, [
        ['cpu', `${metrics.cpus} × CPU, ${(metrics.cpuMs / 1000).toFixed(1)} s used`],
        ['memory', `${formatSize(metrics.memoryUsed)} of ${formatSize(metrics.memoryTotal)}`],
        ['disk', `${formatSize(metrics.diskUsed)} of ${formatSize(metrics.diskTotal)}`],
        ['processes', metrics.processes],
        ['its clock', moment(metrics.now)],
      ]),
  })
  return undefined
}
