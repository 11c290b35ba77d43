import { formatSize } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { egressText, left, phaseCell } from '../output/sandbox.ts'
import { type Cell, facts } from '../output/table.ts'
import { moment } from '../output/text.ts'

/** `tutti sandbox info`: one sandbox in full, and what happened to it. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const { sandbox, nodeName } = await client.getSandbox({ sandbox: args[0] ?? '' }, { signal })
  const { events } = await client.listEvents({ sandbox: sandbox.id, limit: 10 }, { signal })
  await print(cli, options.output, {
    value: { ...sandbox, nodeName, events },
    names: () => [sandbox.id],
    table: () => {
      const pairs: [string, Cell | string | number][] = [
        ['sandbox', sandbox.id],
        ...(sandbox.name === undefined ? [] : [['name', sandbox.name] as [string, string]]),
        ['state', phaseCell(sandbox)],
        ...(sandbox.reason === undefined ? [] : [['reason', sandbox.reason] as [string, string]]),
        ['template', sandbox.template ?? '-'],
        ['build', sandbox.build],
        ['node', nodeName],
        ['machine', `${sandbox.cpus} × CPU, ${formatSize(sandbox.memoryMiB * 2 ** 20)}`],
        ['time left', left(cli.clock.now(), sandbox)],
        ['egress', egressText(sandbox)],
        ['resumed by access', sandbox.autoResume ? 'yes' : 'no'],
        ['created', `${moment(sandbox.createdAt)} by ${sandbox.by}`],
      ]
      if (sandbox.parent) pairs.push(['fork of', sandbox.parent])
      for (const [key, value] of Object.entries(sandbox.metadata)) pairs.push([`metadata ${key}`, value])
      const told = events.map((event) => [moment(event.at), event.message] as const)
      return facts(cli.stdout, pairs) + (told.length === 0 ? '' : `\n${facts(cli.stdout, told)}`)
    },
  })
  return undefined
}
