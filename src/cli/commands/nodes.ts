import { formatSize } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { textOption } from '../options.ts'
import { nodeStateCell, percent } from '../output/node.ts'
import { print } from '../output/print.ts'
import { table } from '../output/table.ts'
import { age } from '../output/text.ts'

/** `tutti nodes`: the machines, and what is reserved on each. */
export async function run(cli: Cli, { options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const nodes = await collect('nodes', (after) => client.listNodes({ after }, { signal: cli.signal }))
  nodes.sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
  await print(cli, options.output, {
    value: nodes,
    names: () => nodes.map(({ name }) => name),
    table: () =>
      nodes.length === 0
        ? 'No machine has joined yet. "tutti token create --join" says how one does.\n'
        : table(
            cli.stdout,
            ['NODE', 'ID', 'STATE', 'OS', 'CPU', 'MEMORY', 'RUNNING', 'DRIVERS', 'SINCE'],
            nodes.map((node) => {
              const { facts, usage } = node
              const drivers = Object.entries(facts?.drivers ?? {}).filter(([, driver]) => driver.healthy)
              return [
                node.name,
                node.id,
                nodeStateCell(node),
                facts ? `${facts.os}/${facts.arch}` : '-',
                facts ? `${percent(usage.cpuMHz, facts.cores * facts.coreMHz)} of ${facts.cores}` : '-',
                facts ? `${percent(usage.memory, facts.memory)} of ${formatSize(facts.memory)}` : '-',
                usage.allocations,
                drivers.map(([name]) => name).join(' ') || '-',
                age(cli.clock.now(), node.since),
              ]
            }),
          ),
  })
  return undefined
}
