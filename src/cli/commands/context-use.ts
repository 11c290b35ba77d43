import type { Cli, Given } from '../cli.ts'
import { useContext } from '../contexts.ts'

/** `tutti context use` */
export async function run(cli: Cli, { args }: Given): Promise<undefined> {
  const [name = ''] = args
  await useContext(cli.home, name)
  cli.stdout.write(`commands go to "${name}" from now on\n`)
  return undefined
}
