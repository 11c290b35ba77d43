import type { Answer } from '../../client/client.ts'
import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { flagOption, textOption } from '../options.ts'
import { stateCell } from '../output/allocation.ts'
import { print } from '../output/print.ts'
import { type Row, table } from '../output/table.ts'
import { age } from '../output/text.ts'

type Allocation = Answer<'listAllocations'>['allocations'][number]

/** `tutti ps`: what runs where. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const filter = {
    ...(args[0] === undefined ? {} : { job: args[0] }),
    ...(flagOption(options, 'all') ? {} : { live: true }),
    ...(options.node === undefined ? {} : { node: String(options.node) }),
  }
  const { signal } = cli
  const [allocations, nodes] = await Promise.all([
    collect('allocations', (after) => client.listAllocations({ ...filter, after }, { signal })),
    collect('nodes', (after) => client.listNodes({ after }, { signal })),
    // A job that does not exist is a mistake, not an empty list.
    args[0] === undefined ? undefined : client.jobHistory({ job: args[0] }, { signal }),
  ])
  const nodeNames = new Map<string, string>(nodes.map(({ id, name }) => [id, name]))
  allocations.sort((a, b) => a.job.localeCompare(b.job) || a.slot - b.slot || b.createdAt - a.createdAt)
  await print(cli, options.output, {
    value: allocations,
    names: () => allocations.map(({ id }) => id),
    table: () =>
      allocations.length === 0 && !flagOption(options, 'all')
        ? 'Nothing is running. "tutti ps -a" shows what has ended, "tutti run" starts something.\n'
        : table(
            cli.stdout,
            ['ALLOCATION', 'JOB', 'COPY', 'NODE', 'STATE', 'RESTARTS', 'PORTS', 'AGE'],
            allocations.map((allocation) => row(cli, allocation, nodeNames)),
          ),
  })
  return undefined
}

function row(cli: Cli, allocation: Allocation, nodeNames: ReadonlyMap<string, string>): Row {
  const restarts = Object.values(allocation.tasks).reduce((sum, task) => sum + task.restarts, 0)
  const ports = Object.entries(allocation.ports).map(([name, port]) => `${name}:${port}`)
  return [
    allocation.id,
    allocation.job,
    allocation.slot,
    nodeNames.get(allocation.node) ?? allocation.node,
    stateCell(allocation),
    restarts,
    ports.join(' ') || '-',
    age(cli.clock.now(), allocation.createdAt),
  ]
}
