import { formatSize } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { collect } from '../collect.ts'
import { textOption } from '../options.ts'
import { stateCell } from '../output/allocation.ts'
import { nodeStateCell, percent } from '../output/node.ts'
import { print } from '../output/print.ts'
import { type Cell, facts, table } from '../output/table.ts'
import { age, moment } from '../output/text.ts'

/** `tutti node status`: one machine in full. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const { node } = await client.getNode({ node: args[0] ?? '' }, { signal })
  const live = await collect('allocations', (after) =>
    client.listAllocations({ node: node.id, live: true, after }, { signal }),
  )
  live.sort((a, b) => a.job.localeCompare(b.job) || a.slot - b.slot)
  await print(cli, options.output, {
    value: { ...node, allocations: live },
    names: () => [node.name],
    table: () => {
      const { facts: known, usage } = node
      const pairs: [string, Cell | string | number][] = [
        ['node', node.name],
        ['id', node.id],
        ['state', nodeStateCell(node)],
        ['since', moment(node.since)],
      ]
      if (node.drain?.deadline) pairs.push(['drain ends', moment(node.drain.deadline)])
      if (known) {
        pairs.push(
          ['system', `${known.os}/${known.arch}, ${known.hostname}, tutti ${known.version}`],
          ['address', known.address],
          ['cpu', `${percent(usage.cpuMHz, known.cores * known.coreMHz)} of ${known.cores} cores reserved`],
          ['memory', `${formatSize(usage.memory)} of ${formatSize(known.memory)} reserved`],
          ['disk', `${formatSize(usage.disk)} of ${formatSize(known.disk)} reserved`],
        )
        for (const [name, driver] of Object.entries(known.drivers)) pairs.push([`driver ${name}`, driverCell(driver)])
        for (const [name, count] of Object.entries(known.counters)) pairs.push([`counter ${name}`, count])
        if (known.volumes.length > 0) pairs.push(['volumes', known.volumes.join(' ')])
      }
      for (const [name, value] of Object.entries(node.labels)) pairs.push([`label ${name}`, value])
      const head = facts(cli.stdout, pairs)
      if (live.length === 0) return head
      const rows = live.map((row) => [row.id, row.job, row.slot, stateCell(row), age(cli.clock.now(), row.createdAt)])
      return `${head}\n${table(cli.stdout, ['ALLOCATION', 'JOB', 'COPY', 'STATE', 'AGE'], rows)}`
    },
  })
  return undefined
}

function driverCell(driver: { healthy: boolean; version?: string | undefined; reason?: string | undefined }): Cell {
  if (driver.healthy) return { text: driver.version ?? 'works', tone: 'good' }
  return { text: `does not work: ${driver.reason ?? 'it does not say why'}`, tone: 'bad' }
}
