import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { toEach } from '../sandbox-options.ts'

/** `tutti sandbox resume`: it answers when this says so. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  await toEach(cli, args, 'resuming', async (word) => {
    const { sandbox } = await client.resumeSandbox({ sandbox: word }, { signal: cli.signal })
    return `sandbox ${sandbox.id} runs`
  })
  return undefined
}
