import type { Cli, Given } from '../cli.ts'
import { flagOption, textOption } from '../options.ts'
import { oneLine } from '../output/text.ts'

/** `tutti sandbox watch`: what changes in a directory, a line each, until it is interrupted. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const [sandbox = '', path = '.'] = args
  const asked = { sandbox, path, recursive: flagOption(options, 'recursive') }
  for await (const event of client.watchSandboxFiles(asked, { signal: cli.signal })) {
    if (event.kind === 'ready') {
      cli.stderr.write(`watching ${path}\n`)
      continue
    }
    if (options.output === 'json') cli.stdout.write(`${JSON.stringify(event)}\n`)
    else if (options.output === 'name') cli.stdout.write(`${oneLine(event.path)}\n`)
    else cli.stdout.write(`${event.kind.padEnd(8)} ${oneLine(event.path)}\n`)
  }
  return undefined
}
