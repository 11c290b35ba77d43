import type { Cli, Given } from '../cli.ts'
import { readContexts } from '../contexts.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'

/** `tutti context list` */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  const { contexts, current } = await readContexts(cli.home)
  const used = cli.env.TUTTI_CONTEXT || current
  await print(cli, options.output, {
    value: contexts.map(({ name, url, caFingerprint }) => ({ name, url, caFingerprint, current: name === used })),
    names: () => contexts.map(({ name }) => name),
    table: () =>
      contexts.length === 0
        ? 'No control plane is known here. "tutti dev" starts one, "tutti context add" names one.\n'
        : table(
            cli.stdout,
            ['', 'CONTEXT', 'ADDRESS', 'AUTHORITY'],
            contexts.map(({ name, url, caFingerprint }) => [
              name === used ? '*' : '',
              name,
              url,
              caFingerprint.slice(0, 16),
            ]),
          ),
  })
  return undefined
}
