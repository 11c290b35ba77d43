import { metadataQuery } from '../../client/connect.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { toEach } from '../sandbox-options.ts'

/** `tutti sandbox kill`: those that are named, or all, or all with some metadata. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const all = flagOption(options, 'all')
  const entries = textsOption(options, 'metadata')
  if (all === args.length > 0) throw new Fault('invalid', 'say which sandboxes, or --all')
  if (entries.length > 0 && !all) throw new Fault('invalid', '--metadata goes with --all')
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const filter = entries.length === 0 ? {} : { metadata: metadataQuery(readPairs('--metadata', entries)) }
  const words = all
    ? (await collect('sandboxes', (after) => client.listSandboxes({ ...filter, after }, { signal }))).map(
        ({ id }) => id,
      )
    : args
  await toEach(cli, words, 'killing', async (word) => {
    const { sandbox } = await client.killSandbox({ sandbox: word }, { signal })
    return `sandbox ${sandbox.id} is ${sandbox.phase === 'killed' ? 'killed' : sandbox.phase}`
  })
  if (words.length === 0) cli.stdout.write('there is none to kill\n')
  return undefined
}
