import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'
import { age, moment } from '../output/text.ts'

/** `tutti history`: who changed a job when. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { versions } = await client.jobHistory({ job: args[0] ?? '' }, { signal: cli.signal })
  await print(cli, options.output, {
    value: versions,
    names: () => versions.map(({ version }) => String(version)),
    table: () =>
      table(
        cli.stdout,
        ['VERSION', 'BY', 'AT', 'AGE', 'COPIES', 'TASKS'],
        versions.map(({ version, by, at, spec }) => [
          version,
          by,
          moment(at),
          age(cli.clock.now(), at),
          spec.count,
          Object.entries(spec.tasks)
            .map(([name, task]) => `${name} (${task.image ?? task.driver})`)
            .join(', '),
        ]),
      ),
  })
  return undefined
}
