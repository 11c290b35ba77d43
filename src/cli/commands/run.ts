import type { Client } from '../../client/client.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { durationOption, flagOption, textOption } from '../options.ts'
import { progress } from '../output/progress.ts'
import { commandJob, namesCommand } from '../spec/command-job.ts'
import { type ReadJob, readJobFiles } from '../spec/read-files.ts'
import { defaultWaitMs, waitUntilRunning } from '../wait.ts'

/** `tutti run`: applies job files and waits until they run, or runs one command and passes its output and exit code on. */
export async function run(cli: Cli, given: Given): Promise<number | undefined> {
  const { args, options, rest } = given
  if (namesCommand(given)) {
    if (args.length > 0)
      throw new Fault('invalid', `give either job files or a command after "--", not "${args[0]}" too`)
    const { runCommand } = await import('../run-command.ts')
    return runCommand(cli, await commandJob(cli, { options, rest }), options)
  }
  if (args.length === 0)
    throw new Fault('invalid', 'give a job file, or a command: tutti run --driver process -- COMMAND')
  const jobs = await readJobFiles(cli, args)
  await using client = await cli.client(textOption(options, 'context'))
  const detach = flagOption(options, 'detach')
  const withinMs = durationOption(options, 'wait') ?? defaultWaitMs
  const applied: { job: string; version: number }[] = []
  for (const { spec } of jobs) applied.push(await apply(cli, client, spec))
  if (!detach) for (const { job, version } of applied) await watchOver(cli, client, { job, version, withinMs })
  return undefined
}

async function apply(cli: Cli, client: Client, spec: ReadJob['spec']): Promise<{ job: string; version: number }> {
  const { job, version, changed } = await client.applyJob({ job: spec.name, body: { spec } }, { signal: cli.signal })
  cli.stdout.write(`job "${job}" ${changed ? `is at version ${version}` : `is unchanged at version ${version}`}\n`)
  return { job, version }
}

async function watchOver(
  cli: Cli,
  client: Client,
  { job, version, withinMs }: { job: string; version: number; withinMs: number },
): Promise<void> {
  using shown = progress(cli)
  await waitUntilRunning(cli, client, { job, version, withinMs, shown })
  shown.say(`${job}: all copies run`, 'good')
}
