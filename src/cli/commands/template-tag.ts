import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'
import { nameAndTag } from '../sandbox-options.ts'

/** `tutti template tag`: tags that lead to a build from now on, or do not any more. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const remove = flagOption(options, 'remove')
  const [build = '', ...rest] = args
  // To remove takes no build; one that is given as well is passed over.
  const names = remove && (rest.length === 0 || build.includes(':')) ? [...new Set(args)] : rest
  if (names.length === 0) throw new Fault('invalid', 'say which tags are to lead there, as NAME:TAG')
  const wanted = names.map((name) => {
    const { template, tag } = nameAndTag(name)
    if (tag === undefined || tag === '') throw new Fault('invalid', `"${name}" is not NAME:TAG`)
    return { template, tag }
  })
  await using client = await cli.client(textOption(options, 'context'))
  for (const { template, tag } of wanted) {
    if (remove) await client.untagTemplate({ template, tag }, { signal: cli.signal })
    else {
      const made = await client.tagTemplate({ template, tag, body: { build } }, { signal: cli.signal })
      cli.stdout.write(`${template}:${tag} leads to build ${made.template.tags[tag]}\n`)
    }
    if (remove) cli.stdout.write(`${template}:${tag} is gone\n`)
  }
  return undefined
}
