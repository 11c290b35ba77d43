import type { Cli, Given } from '../cli.ts'
import { removeContext } from '../contexts.ts'

/** `tutti context remove` */
export async function run(cli: Cli, { args }: Given): Promise<undefined> {
  const [name = ''] = args
  await removeContext(cli.home, name)
  cli.stdout.write(`context "${name}" is forgotten\n`)
  return undefined
}
