import type { Cli, Given } from '../cli.ts'
import { exitCodes } from '../exit-codes.ts'
import { countOption, readPairs, textOption, textsOption } from '../options.ts'
import { print } from '../output/print.ts'
import { progress } from '../output/progress.ts'
import { timeoutOf } from '../sandbox-options.ts'

/** `tutti sandbox fork`: copies of a running sandbox; their ids, one a line. Fails when not all could be made. */
export async function run(cli: Cli, { args, options }: Given): Promise<number> {
  const count = countOption(options, 'count') ?? 1
  const metadata = textsOption(options, 'metadata')
  const timeout = textOption(options, 'timeout')
  const body = {
    count,
    env: readPairs('--env', textsOption(options, 'env')),
    ...(metadata.length === 0 ? {} : { metadata: readPairs('--metadata', metadata) }),
    ...(timeout === undefined ? {} : { timeoutMs: timeoutOf(timeout) }),
  }
  await using client = await cli.client(textOption(options, 'context'))
  using shown = progress(cli, { quiet: true })
  shown.show('forking…')
  const { forks } = await client.forkSandbox({ sandbox: args[0] ?? '', body }, { signal: cli.signal })
  shown[Symbol.dispose]()
  const made = forks.flatMap((each) => ('sandbox' in each ? [each.sandbox] : []))
  const faults = forks.flatMap((each) => ('fault' in each ? [each.fault.message] : []))
  const ids = made.map(({ id }) => id)
  await print(cli, options.output, {
    value: forks,
    names: () => ids,
    table: () => ids.map((id) => `${id}\n`).join(''),
  })
  if (faults.length === 0) return exitCodes.ok
  cli.stderr.write(`tutti: ${faults.length} of ${count} forks could not be made: ${faults[0]}\n`)
  return exitCodes.failed
}
