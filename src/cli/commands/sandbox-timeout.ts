import { formatDuration } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { timeoutOf } from '../sandbox-options.ts'

const ends = { kill: 'killed', pause: 'paused' }

/** `tutti sandbox timeout`: how long it may run from now on. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [word = '', duration = ''] = args
  const timeoutMs = timeoutOf(duration)
  const onTimeout = textOption(options, 'onTimeout') as 'kill' | 'pause' | undefined
  await using client = await cli.client(textOption(options, 'context'))
  const body = { timeoutMs, ...(onTimeout === undefined ? {} : { onTimeout }) }
  const { sandbox } = await client.setSandboxTimeout({ sandbox: word, body }, { signal: cli.signal })
  const words =
    timeoutMs === null
      ? 'has no time limit now'
      : `may run for ${formatDuration(timeoutMs)} from now on; then it is ${ends[sandbox.onTimeout]}`
  cli.stdout.write(`sandbox ${sandbox.id} ${words}\n`)
  return undefined
}
