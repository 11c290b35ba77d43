import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { egressText } from '../output/sandbox.ts'
import { egressOf } from '../sandbox-options.ts'

/** `tutti sandbox egress`: shows what a sandbox may reach, or says it anew. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [word = '', policy] = args
  const egress = egressOf(policy, options)
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const { sandbox } = egress
    ? await client.setSandboxEgress({ sandbox: word, body: { egress } }, { signal })
    : await client.getSandbox({ sandbox: word }, { signal })
  await print(cli, options.output, {
    value: sandbox.egress,
    names: () => [sandbox.id],
    table: () => `${egressText(sandbox)}\n`,
  })
  return undefined
}
