import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { flagOption, textOption } from '../options.ts'
import { buildTable } from '../output/builds.ts'
import { print } from '../output/print.ts'

/** `tutti build list`: the newest first. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const [template, node] = ['template', 'node'].map((name) => textOption(options, name))
  const filter = {
    all: flagOption(options, 'all'),
    ...(template === undefined ? {} : { template }),
    ...(node === undefined ? {} : { node }),
  }
  const [builds, nodes] = await Promise.all([
    collect('builds', (after) => client.listBuilds({ ...filter, after }, { signal })),
    collect('nodes', (after) => client.listNodes({ after }, { signal })),
  ])
  builds.sort((a, b) => b.createdAt - a.createdAt)
  const nodeNames = new Map<string, string>(nodes.map(({ id, name }) => [id, name]))
  await print(cli, options.output, {
    value: builds,
    names: () => builds.map(({ id }) => id),
    table: () =>
      builds.length === 0
        ? template !== undefined || node !== undefined
          ? 'No build is like that; "tutti build list" lists those there are.\n'
          : 'There is no build. "tutti template build" makes one.\n'
        : buildTable(cli.stdout, builds, { now: cli.clock.now(), nodeNames }),
  })
  return undefined
}
