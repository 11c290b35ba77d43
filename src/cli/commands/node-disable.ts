import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti node disable` */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { node } = await client.setNodeEligible(
    { node: args[0] ?? '', body: { eligible: false } },
    { signal: cli.signal },
  )
  cli.stdout.write(`node "${node.name}" is closed to new work; what runs there goes on\n`)
  return undefined
}
