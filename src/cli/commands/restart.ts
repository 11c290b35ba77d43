import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { findTarget } from '../targets.ts'

/** `tutti restart`: the tasks of a job or of one allocation, in place. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const target = await findTarget(client, args[0] ?? '', signal)
  if (target.kind === 'job') {
    await client.restartJob({ job: target.job.job.name }, { signal })
    cli.stdout.write(`job "${target.job.job.name}" is being restarted\n`)
  } else {
    await client.restartAllocation({ allocation: target.allocation.id }, { signal })
    cli.stdout.write(`allocation ${target.allocation.id} is being restarted\n`)
  }
  return undefined
}
