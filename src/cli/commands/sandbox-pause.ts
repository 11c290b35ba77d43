import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { toEach } from '../sandbox-options.ts'

/** `tutti sandbox pause`: saved when it says so. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  await toEach(cli, args, 'pausing', async (word) => {
    const { sandbox } = await client.pauseSandbox({ sandbox: word }, { signal: cli.signal })
    return `sandbox ${sandbox.id} is paused`
  })
  return undefined
}
