import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { textOption } from '../options.ts'
import { copiesText, jobStateCell } from '../output/job.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'
import { age } from '../output/text.ts'

/** `tutti jobs`: every job in a line. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const jobs = await collect('jobs', (after) => client.listJobs({ after }, { signal: cli.signal }))
  await print(cli, options.output, {
    value: jobs,
    names: () => jobs.map(({ name }) => name),
    table: () =>
      jobs.length === 0
        ? 'There are no jobs yet. "tutti run FILE" makes one.\n'
        : table(
            cli.stdout,
            ['JOB', 'TYPE', 'STATE', 'COPIES', 'VERSION', 'AGE', 'NOTE'],
            jobs.map((job) => [
              job.name,
              job.type,
              jobStateCell(job),
              copiesText(job),
              job.version,
              age(cli.clock.now(), job.createdAt),
              job.blocked,
            ]),
          ),
  })
  return undefined
}
