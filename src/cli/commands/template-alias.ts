import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'

/** `tutti template alias`: other names for a template. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [template = '', ...aliases] = args
  const remove = flagOption(options, 'remove')
  await using client = await cli.client(textOption(options, 'context'))
  for (const alias of aliases) {
    const asked = { template, alias }
    const { template: row } = remove
      ? await client.unaliasTemplate(asked, { signal: cli.signal })
      : await client.aliasTemplate(asked, { signal: cli.signal })
    cli.stdout.write(remove ? `"${alias}" is gone\n` : `"${alias}" is template "${row.name}"\n`)
  }
  return undefined
}
