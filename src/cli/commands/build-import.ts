import { Fault } from '../../model/fault.ts'
import { BuildId } from '../../model/ids.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { nameAndTag } from '../sandbox-options.ts'

/** `tutti build import`: makes a build known that was copied into a node's store; prints its id. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const id = BuildId.safeParse(args[0])
  if (!id.success) throw new Fault('invalid', `"${args[0]}" is not the whole id of a build, as "build copy" prints it`)
  const name = textOption(options, 'template')
  const { template, tag } = name === undefined ? { template: undefined, tag: undefined } : nameAndTag(name)
  const node = textOption(options, 'node')
  await using client = await cli.client(textOption(options, 'context'))
  const body = {
    build: id.data,
    ...(node === undefined ? {} : { node }),
    ...(template === undefined ? {} : { template }),
    ...(tag === undefined ? {} : { tag }),
  }
  const { build } = await client.importBuild({ body }, { signal: cli.signal })
  await print(cli, options.output, { value: build, names: () => [build.id], table: () => `${build.id}\n` })
  return undefined
}
