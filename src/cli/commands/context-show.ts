import type { Cli, Given } from '../cli.ts'
import { chooseContext } from '../contexts.ts'
import { print } from '../output/print.ts'
import { facts } from '../output/table.ts'

/** `tutti context show`: all of a context but its token. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const { name, url, caFingerprint, token } = await chooseContext(cli.home, cli.env, args[0])
  await print(cli, options.output, {
    value: { name, url, caFingerprint, hasToken: token !== undefined },
    names: () => [name],
    table: () =>
      facts(cli.stdout, [
        ['context', name],
        ['address', url],
        ['authority', caFingerprint || 'not known'],
        ['token', token === undefined ? 'none' : 'kept, not shown'],
      ]),
  })
  return undefined
}
