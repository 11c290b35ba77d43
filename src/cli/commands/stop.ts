import type { Client } from '../../client/client.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { durationOption, flagOption, textOption } from '../options.ts'
import { progress } from '../output/progress.ts'
import { findTarget } from '../targets.ts'
import { defaultWaitMs, waitUntilEnded } from '../wait.ts'

/** `tutti stop`: jobs, which then are wanted zero times, or single allocations, which are replaced. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const purge = flagOption(options, 'purge')
  const withinMs = durationOption(options, 'wait') ?? defaultWaitMs
  for (const word of args) {
    const target = await findTarget(client, word, cli.signal)
    if (target.kind === 'allocation') {
      if (purge) throw new Fault('invalid', `"${word}" is an allocation; only jobs can be purged`)
      await client.stopAllocation({ allocation: target.allocation.id }, { signal: cli.signal })
      cli.stdout.write(`allocation ${target.allocation.id} is asked to stop; its copy is replaced\n`)
      continue
    }
    const job = target.job.job.name
    if (!target.job.job.stopped) await client.stopJob({ job }, { signal: cli.signal })
    if (flagOption(options, 'detach') && !purge) {
      cli.stdout.write(`job "${job}" is asked to stop\n`)
      continue
    }
    await awaitEnd(cli, client, job, withinMs)
    if (purge) await client.purgeJob({ job }, { signal: cli.signal })
    cli.stdout.write(`job "${job}" is ${purge ? 'stopped and removed' : 'stopped'}\n`)
  }
  return undefined
}

async function awaitEnd(cli: Cli, client: Client, job: string, withinMs: number): Promise<void> {
  using shown = progress(cli)
  await waitUntilEnded(cli, client, { job, withinMs, shown })
}
