import type { Client } from '../../client/client.ts'
import type { Cli, Given } from '../cli.ts'
import { durationOption, flagOption, textOption } from '../options.ts'
import { progress } from '../output/progress.ts'

/** `tutti node drain`: everything moves away, and nothing new comes. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const cancel = flagOption(options, 'cancel')
  const deadlineMs = durationOption(options, 'deadline') ?? null
  const { node } = await client.drainNode({ node: args[0] ?? '', body: { deadlineMs, cancel } }, { signal: cli.signal })
  if (cancel) {
    cli.stdout.write(
      `the drain of node "${node.name}" is ended; "tutti node enable ${node.name}" opens it to new work\n`,
    )
    return undefined
  }
  if (flagOption(options, 'wait')) await untilEmpty(cli, client, node)
  cli.stdout.write(`node "${node.name}" is ${flagOption(options, 'wait') ? 'empty' : 'being drained'}\n`)
  return undefined
}

async function untilEmpty(cli: Cli, client: Client, node: { id: string; name: string }): Promise<void> {
  using shown = progress(cli)
  const live = new Set<string>()
  for await (const event of client.watch({ tables: ['allocations'] }, { signal: cli.signal })) {
    if (event.type === 'reset') live.clear()
    if (event.type === 'row' || event.type === 'change') {
      if (event.table !== 'allocations') continue
      const { row, key } = event
      const ended = row === null || ['complete', 'failed', 'stopped', 'lost'].includes(row.phase)
      if (ended || row.node !== node.id) live.delete(key)
      else live.add(key)
      if (event.type === 'row') continue
    }
    if (event.type === 'reset') continue
    if (live.size === 0) return
    shown.show(
      `node "${node.name}": ${live.size} ${live.size === 1 ? 'allocation has' : 'allocations have'} not moved yet`,
    )
  }
  cli.signal.throwIfAborted()
}
