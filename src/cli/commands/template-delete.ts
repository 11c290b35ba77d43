import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'

/** `tutti template delete`: whole templates, or with `:TAG` or the id of a build only that build. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  for (const word of args) {
    if (word.includes(':') || /^[0-9a-z]{16}$/.test(word)) {
      await client.deleteBuild({ build: word }, { signal })
      cli.stdout.write(`build ${word} is deleted\n`)
    } else {
      await client.deleteTemplate({ template: word }, { signal })
      cli.stdout.write(`template "${word}" is deleted\n`)
    }
  }
  return undefined
}
