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
  const word = textOption(options, 'sandbox')
  const sandbox = word === undefined ? undefined : (await client.getSandbox({ sandbox: word }, { signal })).sandbox.id
  const { events, index } = await client.listEvents(
    {
      ...(job === undefined ? {} : { job }),
      ...(nodeId === undefined ? {} : { node: nodeId }),
      ...(sandbox === undefined ? {} : { sandbox }),
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
    const asked = job ?? word
    if (events.length === 0) cli.stderr.write(`no events${asked === undefined ? '' : ` of "${asked}"`} are kept\n`)
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
    if (sandbox !== undefined && change.row.sandbox !== sandbox) continue
    seen.add(change.key)
    show(change.row)
  }
  return undefined
}

function line(cli: Cli, { at, level, kind, message, job, allocation, sandbox }: Event): string {
  const out = cli.stdout
  const tone = level === 'error' ? 'bad' : level === 'warning' ? 'busy' : 'plain'
  // What is said of a sandbox mostly names it.
  const whose = sandbox !== undefined && message.includes(sandbox) ? undefined : sandbox
  const subject = [job, allocation, whose].filter((part) => part !== undefined).join(' ')
  return `${paint(out, 'faint', moment(at))}  ${paint(out, tone, kind.padEnd(24))}  ${oneLine(subject ? `${subject}: ${message}` : message)}\n`
}
