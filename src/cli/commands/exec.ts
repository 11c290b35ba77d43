import { Fault } from '../../model/fault.ts'
import { attach, sizeOf } from '../attach.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { findRunning } from '../targets.ts'

/** `tutti exec`: a command inside a task; its exit code is ours. */
export async function run(cli: Cli, { args, options, rest }: Given): Promise<number> {
  const [word = '', ...words] = args
  const terminal = flagOption(options, 'tty')
  const command = [...words, ...rest]
  if (command.length === 0) {
    if (!terminal) throw new Fault('invalid', 'exec needs a command: tutti exec TARGET -- COMMAND')
    command.push('sh')
  }
  if (terminal && !cli.stdin.isTTY)
    throw new Fault('invalid', '-t needs a terminal, and standard input is none; leave it out')
  await using client = await cli.client(textOption(options, 'context'))
  const allocation = await findRunning(client, word, cli.signal)
  const task = textOption(options, 'task')
  const cwd = textOption(options, 'cwd')
  const user = textOption(options, 'user')
  const execution = await client.exec(
    { allocation: allocation.id },
    {
      command,
      env: {
        ...(terminal && cli.env.TERM ? { TERM: cli.env.TERM } : {}),
        ...readPairs('--env', textsOption(options, 'env')),
      },
      ...(task === undefined ? {} : { task }),
      ...(cwd === undefined ? {} : { cwd }),
      ...(user === undefined ? {} : { user }),
      ...(terminal ? { terminal: sizeOf(cli.stdout) } : {}),
    },
    { signal: cli.signal },
  )
  return attach(cli, execution, { terminal, interactive: flagOption(options, 'interactive') })
}
