import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { flagOption, readPairs, textOption, textsOption } from '../options.ts'
import { print } from '../output/print.ts'
import { progress } from '../output/progress.ts'
import { egressOf, timeoutOf } from '../sandbox-options.ts'

/** `tutti sandbox create`: its id is alone on standard output, so that it can be used. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const egress = egressOf(textOption(options, 'egress'), options)
  const timeout = textOption(options, 'timeout')
  const onTimeout = textOption(options, 'onTimeout') as 'kill' | 'pause' | undefined
  const given = {
    template: args[0] ?? textOption(options, 'template'),
    name: textOption(options, 'name'),
    user: textOption(options, 'user'),
    cwd: textOption(options, 'cwd'),
    node: textOption(options, 'node'),
    cpuMHz: cpuOf(textOption(options, 'cpu')),
    onTimeout,
    egress,
    timeoutMs: timeout === undefined ? undefined : timeoutOf(timeout),
  }
  const body = {
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    metadata: readPairs('--metadata', textsOption(options, 'metadata')),
    env: readPairs('--env', textsOption(options, 'env')),
    autoResume: flagOption(options, 'autoResume'),
  }
  await using client = await cli.client(textOption(options, 'context'))
  using shown = progress(cli, { quiet: true })
  shown.show('creating a sandbox…')
  const { sandbox } = await client.createSandbox({ body }, { signal: cli.signal })
  shown[Symbol.dispose]()
  await print(cli, options.output, {
    value: sandbox,
    names: () => [sandbox.id],
    table: () => `${sandbox.id}\n`,
  })
  if (cli.stdout.isTTY && options.output === undefined)
    cli.stderr.write(`"tutti sandbox exec -it ${sandbox.id}" gets in\n`)
  return undefined
}

function cpuOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const [, amount, unit] = /^(\d+(?:\.\d+)?)(MHz|GHz)$/i.exec(text) ?? []
  if (amount !== undefined) return Math.ceil(Number(amount) * (unit?.toLowerCase() === 'ghz' ? 1000 : 1))
  throw new Fault('invalid', `--cpu needs a speed such as 500MHz, not "${text}"`)
}
