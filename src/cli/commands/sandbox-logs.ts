import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti sandbox logs`: what its machine wrote on its console. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const text = await client.sandboxConsole({ sandbox: args[0] ?? '' }, { signal: cli.signal })
  // A machine that goes on from a snapshot has booted before.
  if (text === '') cli.stderr.write('its machine has written nothing on its console so far\n')
  cli.stdout.write(text.endsWith('\n') || text === '' ? text : `${text}\n`)
  return undefined
}
