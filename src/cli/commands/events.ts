import type { Answer } from '../../client/client.ts'
import type { Cli, Given } from '../cli.ts'
import { countOption, flagOption, textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { moment, oneLine, paint } from '../output/text.ts'

type Event = Answer<'listEvents'>['events'][number]

/** `tutti events`: what happened, and with -f what happens. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  const job = args[0]
  const node = textOption(options, 'node')
  const nodeId = node === undefined ? undefined : (await client.getNode({ node }, { signal })).node.id
  const { events, index } = await client.listEvents(
    {
      ...(job === undefined ? {} : { job }),
      ...(nodeId === undefined ? {} : { node: nodeId }),
      limit: countOption(options, 'limit') ?? 50,
    },
    { signal },
  )
  if (!flagOption(options, 'follow')) {
    await print(cli, options.output, {
      value: events,
      names: () => events.map(({ id }) => id),
      table: () => events.map((event) => line(cli, event)).join(''),
    })
    if (events.length === 0) cli.stderr.write(`no events${job === undefined ? '' : ` of "${job}"`} are kept\n`)
    return undefined
  }
  const show = (event: Event) =>
    cli.stdout.write(options.output === 'json' ? `${JSON.stringify(event)}\n` : line(cli, event))
  events.forEach(show)
  const seen = new Set(events.map(({ id }) => id))
  const follow = client.watch({ tables: ['events'], from: index, ...(job === undefined ? {} : { job }) }, { signal })
  for await (const change of follow) {
    if (change.type !== 'change' || change.table !== 'events' || change.row === null || seen.has(change.key)) continue
    if (nodeId !== undefined && change.row.node !== nodeId) continue
    seen.add(change.key)
    show(change.row)
  }
  return undefined
}

function line(cli: Cli, { at, level, kind, message, job, allocation }: Event): string {
  const out = cli.stdout
  const tone = level === 'error' ? 'bad' : level === 'warning' ? 'busy' : 'plain'
  const subject = [job, allocation].filter((part) => part !== undefined).join(' ')
  return `${paint(out, 'faint', moment(at))}  ${paint(out, tone, kind.padEnd(24))}  ${oneLine(subject ? `${subject}: ${message}` : message)}\n`
}
