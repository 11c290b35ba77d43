import type { Input } from '../../client/client.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { findRunning } from '../targets.ts'

type Signal = Input<'signalAllocation'>['body']['signal']

/** `tutti signal`: such as SIGHUP, to have a program read its configuration again. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [name = '', word = '', task] = args
  const upper = name.toUpperCase()
  // The control plane knows which signals there are, and says so.
  const signal = (upper.startsWith('SIG') ? upper : `SIG${upper}`) as Signal
  await using client = await cli.client(textOption(options, 'context'))
  const { id } = await findRunning(client, word, cli.signal)
  await client.signalAllocation(
    { allocation: id, body: { signal, ...(task === undefined ? {} : { task }) } },
    { signal: cli.signal },
  )
  cli.stdout.write(`${signal} is sent to allocation ${id}\n`)
  return undefined
}
