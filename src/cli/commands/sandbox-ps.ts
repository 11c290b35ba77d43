import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'
import { age } from '../output/text.ts'

/** `tutti sandbox ps`: commands of a sandbox that run; with `--all` also the last that ended. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const [sandbox = ''] = args
  const { processes } = await client.sandboxProcesses({ sandbox }, { signal: cli.signal })
  const shown = processes.filter(({ running }) => running || flagOption(options, 'all'))
  const now = cli.clock.now()
  await print(cli, options.output, {
    value: shown,
    names: () => shown.map(({ pid }) => String(pid)),
    table: () =>
      shown.length === 0
        ? 'No command runs there. "tutti sandbox exec -d" starts one that goes on by itself.\n'
        : table(
            cli.stdout,
            ['PID', 'STATE', 'AGE', 'COMMAND'],
            shown.map(({ pid, running, code, startedAt, command }) => [
              pid,
              running ? { text: 'running', tone: 'good' } : { text: `exited ${code}`, tone: 'faint' },
              age(now, startedAt),
              command.join(' '),
            ]),
          ),
  })
  return undefined
}
