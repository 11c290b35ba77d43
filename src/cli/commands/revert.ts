import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { durationOption, flagOption, textOption } from '../options.ts'
import { progress } from '../output/progress.ts'
import { defaultWaitMs, waitUntilRunning } from '../wait.ts'

/** `tutti revert`: an earlier version as a new one. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [job = '', text] = args
  if (text !== undefined && !/^[1-9]\d{0,8}$/.test(text))
    throw new Fault('invalid', `a version is a number such as 3, not "${text}"; "tutti history ${job}" lists them`)
  await using client = await cli.client(textOption(options, 'context'))
  const applied = await client.revertJob(
    { job, body: text === undefined ? {} : { version: Number(text) } },
    { signal: cli.signal },
  )
  if (!applied.changed) {
    cli.stdout.write(`job "${job}" is the same as that already\n`)
    return undefined
  }
  if (!flagOption(options, 'detach')) {
    using shown = progress(cli)
    const withinMs = durationOption(options, 'wait') ?? defaultWaitMs
    await waitUntilRunning(cli, client, { job, version: applied.version, withinMs, shown })
  }
  cli.stdout.write(`job "${job}" is reverted, as version ${applied.version}\n`)
  return undefined
}
