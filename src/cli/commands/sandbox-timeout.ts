import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { left } from '../output/sandbox.ts'
import { timeoutOf } from '../sandbox-options.ts'

/** `tutti sandbox timeout`: how long it may run from now on. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [word = '', duration = ''] = args
  const timeoutMs = timeoutOf(duration)
  const onTimeout = textOption(options, 'onTimeout') as 'kill' | 'pause' | undefined
  await using client = await cli.client(textOption(options, 'context'))
  const body = { timeoutMs, ...(onTimeout === undefined ? {} : { onTimeout }) }
  const { sandbox } = await client.setSandboxTimeout({ sandbox: word, body }, { signal: cli.signal })
  const words = sandbox.expiresAt === null ? 'has no time limit now' : `has ${left(cli.clock.now(), sandbox)}`
  cli.stdout.write(`sandbox ${sandbox.id} ${words}\n`)
  return undefined
}
