import type { SignalName } from '../../client/sandbox.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { pidOf } from '../sandbox-options.ts'

/** `tutti sandbox signal`: to a command in a sandbox, and to what it started. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const [name = '', sandbox = '', word = ''] = args
  const pid = pidOf(word)
  const upper = name.toUpperCase()
  // The control plane knows which signals there are, and says so.
  const signal = (upper.startsWith('SIG') ? upper : `SIG${upper}`) as SignalName
  await using client = await cli.client(textOption(options, 'context'))
  await client.signalSandboxProcess({ sandbox, pid, body: { signal } }, { signal: cli.signal })
  cli.stdout.write(`${signal} is sent to command ${pid} of sandbox ${sandbox}\n`)
  return undefined
}
