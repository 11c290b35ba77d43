import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'
import { buildLine } from '../output/build-line.ts'

/** `tutti template logs`: what a build said, and with `-f` what it goes on to say. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const asked = { build: args[0] ?? '', follow: flagOption(options, 'follow') }
  for await (const line of client.buildLogs(asked, { signal: cli.signal }))
    cli.stdout.write(buildLine(cli.stdout, line))
  return undefined
}
