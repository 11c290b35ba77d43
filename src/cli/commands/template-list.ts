import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'
import { age } from '../output/text.ts'

/** `tutti template list`. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const templates = await collect('templates', (after) => client.listTemplates({ after }, { signal: cli.signal }))
  const now = cli.clock.now()
  await print(cli, options.output, {
    value: templates,
    names: () => templates.map(({ name }) => name),
    table: () =>
      templates.length === 0
        ? 'There is no template. "tutti template build" makes one.\n'
        : table(
            cli.stdout,
            ['TEMPLATE', 'TAGS', 'LATEST', 'ALIASES', 'CHANGED'],
            templates.map(({ name, tags, aliases, changedAt }) => [
              name,
              Object.keys(tags).sort().join(' ') || '-',
              tags.latest ?? '-',
              aliases.join(' ') || '-',
              age(now, changedAt),
            ]),
          ),
  })
  return undefined
}
