import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { textOption } from '../options.ts'
import { buildTable } from '../output/builds.ts'
import { print } from '../output/print.ts'
import { facts } from '../output/table.ts'
import { moment } from '../output/text.ts'

/** `tutti template info`: a template, its tags and its builds. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const [{ template, builds }, nodes] = await Promise.all([
    client.getTemplate({ template: args[0] ?? '' }, { signal }),
    collect('nodes', (after) => client.listNodes({ after }, { signal })),
  ])
  const nodeNames = new Map<string, string>(nodes.map(({ id, name }) => [id, name]))
  await print(cli, options.output, {
    value: { ...template, builds },
    names: () => [template.name],
    table: () => {
      const tags = Object.entries(template.tags).sort(([a], [b]) => (a < b ? -1 : 1))
      const head = facts(cli.stdout, [
        ['template', template.name],
        ['aliases', template.aliases.join(' ') || '-'],
        ['created', moment(template.createdAt)],
        ...tags.map(([tag, build]) => [`tag ${tag}`, build] as const),
      ])
      return builds.length === 0
        ? head
        : `${head}\n${buildTable(cli.stdout, builds, { now: cli.clock.now(), nodeNames })}`
    },
  })
  return undefined
}
