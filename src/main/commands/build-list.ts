import { listBuilds } from '../../blocks/operations/list.ts'
import type { Cli, Given } from '../../cli/cli.ts'
import { run as listKnown } from '../../cli/commands/build-list.ts'
import { flagOption, textOption } from '../../cli/options.ts'
import { print } from '../../cli/output/print.ts'
import { table } from '../../cli/output/table.ts'
import { age, paint } from '../../cli/output/text.ts'
import { Fault } from '../../model/fault.ts'
import { formatSize } from '../../model/quantity.ts'
import { openBuildStore } from '../builds/store.ts'

/** `tutti build list`: the builds that the control plane knows, or those that lie in a store, the newest first. */
export async function run(cli: Cli, given: Given): Promise<number | undefined> {
  const { options } = given
  const named = textOption(options, 'store')
  if (named === undefined && !flagOption(options, 'local')) return listKnown(cli, given)
  for (const other of ['template', 'node', 'all'])
    if (options[other] !== undefined)
      throw new Fault(
        'invalid',
        `--${other} is about what the control plane knows: leave it out with --store or --local`,
      )
  const { objects } = await openBuildStore(cli, named)
  const { builds, problems } = await listBuilds(objects)
  builds.reverse()
  await print(cli, options.output, {
    value: { builds, problems },
    names: () => builds.map(({ id }) => id),
    table: () => {
      if (builds.length === 0) return `There is no build in ${objects.url}.\n`
      const now = cli.clock.now()
      return table(
        cli.stdout,
        ['BUILD', 'WHY', 'OF', 'SIZE', 'ADDED', 'PARENT', 'AGE', 'NAMES'],
        builds.map(({ id, reason, hasMemory, size, addedBytes, parent, createdAt, references }) => [
          id,
          reason,
          hasMemory ? 'disk, memory' : 'disk',
          formatSize(size),
          formatSize(addedBytes),
          parent ?? '-',
          age(now, createdAt),
          references.join(' ') || '-',
        ]),
      )
    },
  })
  for (const problem of problems) cli.stderr.write(`${paint(cli.stderr, 'bad', 'tutti:')} ${problem}\n`)
  return problems.length > 0 ? 1 : 0
}
