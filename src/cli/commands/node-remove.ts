import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti node remove`: for a machine that will not come back. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { node } = await client.getNode({ node: args[0] ?? '' }, { signal: cli.signal })
  await client.forgetNode({ node: node.id }, { signal: cli.signal })
  cli.stdout.write(`node "${node.name}" is removed\n`)
  return undefined
}
