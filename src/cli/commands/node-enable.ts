import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti node enable` */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { node } = await client.setNodeEligible(
    { node: args[0] ?? '', body: { eligible: true } },
    { signal: cli.signal },
  )
  cli.stdout.write(`node "${node.name}" is open to new work\n`)
  return undefined
}
