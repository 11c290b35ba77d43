import { metadataQuery } from '../../client/connect.ts'
import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { print } from '../output/print.ts'
import { left, phaseCell } from '../output/sandbox.ts'
import { table } from '../output/table.ts'
import { age } from '../output/text.ts'

/** `tutti sandbox list`: those that are not over, the newest first. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const metadata = textsOption(options, 'metadata')
  const [phase, template, node] = ['phase', 'template', 'node'].map((name) => textOption(options, name))
  const filter = {
    all: flagOption(options, 'all'),
    ...(phase === undefined ? {} : { phase }),
    ...(template === undefined ? {} : { template }),
    ...(node === undefined ? {} : { node }),
    ...(metadata.length === 0 ? {} : { metadata: metadataQuery(readPairs('--metadata', metadata)) }),
  }
  const { signal } = cli
  const [sandboxes, nodes] = await Promise.all([
    collect('sandboxes', (after) => client.listSandboxes({ ...filter, after }, { signal })),
    collect('nodes', (after) => client.listNodes({ after }, { signal })),
  ])
  const nodeNames = new Map<string, string>(nodes.map(({ id, name }) => [id, name]))
  sandboxes.sort((a, b) => b.createdAt - a.createdAt)
  const now = cli.clock.now()
  await print(cli, options.output, {
    value: sandboxes,
    names: () => sandboxes.map(({ id }) => id),
    table: () =>
      sandboxes.length === 0
        ? metadata.length > 0 || phase !== undefined || template !== undefined || node !== undefined
          ? 'No sandbox is like that; "tutti sandbox list -a" lists all there are.\n'
          : 'There is no sandbox. "tutti sandbox create" makes one.\n'
        : table(
            cli.stdout,
            ['SANDBOX', 'NAME', 'TEMPLATE', 'NODE', 'STATE', 'LEFT', 'AGE', 'METADATA'],
            sandboxes.map((row) => [
              row.id,
              row.name ?? '-',
              row.template ?? '-',
              nodeNames.get(row.node) ?? row.node,
              phaseCell(row),
              left(now, row),
              age(now, row.createdAt),
              Object.entries(row.metadata)
                .map(([key, value]) => `${key}=${value}`)
                .join(' ') || '-',
            ]),
          ),
  })
  return undefined
}
