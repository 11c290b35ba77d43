import { Fault } from '../../model/fault.ts'
import { attach, watchOutput } from '../attach.ts'
import type { Cli, Given } from '../cli.ts'
import { countOption, flagOption, textOption } from '../options.ts'
import { pidOf } from '../sandbox-options.ts'

/** `tutti sandbox attach`: joins a command again; its exit code is ours. */
export async function run(cli: Cli, { args, options }: Given): Promise<number> {
  const [sandbox = '', word = ''] = args
  const pid = pidOf(word)
  const from = countOption(options, 'from')
  const interactive = flagOption(options, 'interactive')
  await using client = await cli.client(textOption(options, 'context'))
  const request = { pid, ...(from === undefined ? {} : { from }) }
  const execution = await client.attachSandbox({ sandbox }, request, { signal: cli.signal })
  if (!interactive) return watchOutput(cli, execution)
  const { terminal } = await execution.started
  if (terminal && !cli.stdin.isTTY)
    throw new Fault(
      'invalid',
      `command ${pid} has a terminal, and standard input is none; leave -i out to only watch it`,
    )
  return attach(cli, execution, { terminal, interactive, mayLeave: true })
}
