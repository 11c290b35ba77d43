import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { progress } from '../output/progress.ts'
import { nameAndTag } from '../sandbox-options.ts'

/** `tutti sandbox snapshot`: the id of the build, alone on standard output. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const name = textOption(options, 'template')
  const { template, tag } = name === undefined ? { template: undefined, tag: undefined } : nameAndTag(name)
  const body = { ...(template === undefined ? {} : { template }), ...(tag === undefined ? {} : { tag }) }
  await using client = await cli.client(textOption(options, 'context'))
  using shown = progress(cli, { quiet: true })
  shown.show('taking a snapshot…')
  const { build } = await client.snapshotSandbox({ sandbox: args[0] ?? '', body }, { signal: cli.signal })
  shown[Symbol.dispose]()
  await print(cli, options.output, { value: build, names: () => [build.id], table: () => `${build.id}\n` })
  return undefined
}
