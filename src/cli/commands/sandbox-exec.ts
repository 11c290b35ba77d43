import { Fault } from '../../model/fault.ts'
import { attach, sizeOf } from '../attach.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'

/** `tutti sandbox exec`: a command in a sandbox; its exit code is ours. */
export async function run(cli: Cli, { args, options, rest }: Given): Promise<number> {
  const [sandbox = '', ...words] = args
  const terminal = flagOption(options, 'tty')
  const detached = flagOption(options, 'detach')
  const command = [...words, ...rest]
  if (command.length === 0) {
    if (!terminal)
      throw new Fault(
        'invalid',
        'exec needs a command: tutti sandbox exec SANDBOX -- COMMAND; with -it a shell will do',
      )
    command.push('/bin/sh')
  }
  if (words[0]?.startsWith('-'))
    throw new Fault(
      'invalid',
      `"${words[0]}" comes after the sandbox, where the command begins; options go before it: tutti sandbox exec ${words[0]} … ${sandbox} -- COMMAND`,
    )
  if (terminal && !detached && !cli.stdin.isTTY)
    throw new Fault('invalid', '-t needs a terminal, and standard input is none; leave it out')
  await using client = await cli.client(textOption(options, 'context'))
  const cwd = textOption(options, 'cwd')
  const user = textOption(options, 'user')
  const execution = await client.execSandbox(
    { sandbox },
    {
      command,
      env: {
        ...(terminal && cli.env.TERM ? { TERM: cli.env.TERM } : {}),
        ...readPairs('--env', textsOption(options, 'env')),
      },
      ...(cwd === undefined ? {} : { cwd }),
      ...(user === undefined ? {} : { user }),
      ...(terminal ? { terminal: sizeOf(cli.stdout) } : {}),
      detached,
      // On a terminal its end would be a key pressed.
      stdin: !detached || terminal || flagOption(options, 'interactive'),
    },
    { signal: cli.signal },
  )
  if (detached) {
    const { pid } = await execution.started
    cli.stdout.write(`${pid}\n`)
    execution.close()
    return 0
  }
  return attach(cli, execution, { terminal, interactive: flagOption(options, 'interactive') })
}
