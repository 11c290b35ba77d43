import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'
import { nameAndTag } from '../sandbox-options.ts'

/** `tutti template tag`: tags that lead to a build from now on, or do not any more. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [build = '', ...names] = args
  const wanted = names.map((name) => {
    const { template, tag } = nameAndTag(name)
    if (tag === undefined || tag === '') throw new Fault('invalid', `"${name}" is not NAME:TAG`)
    return { template, tag }
  })
  const remove = flagOption(options, 'remove')
  await using client = await cli.client(textOption(options, 'context'))
  for (const { template, tag } of wanted) {
    if (remove) await client.untagTemplate({ template, tag }, { signal: cli.signal })
    else await client.tagTemplate({ template, tag, body: { build } }, { signal: cli.signal })
    cli.stdout.write(remove ? `${template}:${tag} is gone\n` : `${template}:${tag} leads to ${build}\n`)
  }
  return undefined
}
