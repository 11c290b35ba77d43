import type { Answer, Client } from '../../client/client.ts'
import { formatDuration } from '../../model/quantity.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { stateCell } from '../output/allocation.ts'
import { copiesText, jobStateCell } from '../output/job.ts'
import { print } from '../output/print.ts'
import { facts, table } from '../output/table.ts'
import { age, moment, oneLine, paint } from '../output/text.ts'
import { findTarget } from '../targets.ts'

type Allocation = Answer<'getAllocation'>['allocation']
type Event = Answer<'listEvents'>['events'][number]

/** `tutti status`: all there is to know of a job or an allocation, or how the control plane is. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const { signal } = cli
  if (args[0] === undefined) {
    const status = await client.status({}, { signal })
    await print(cli, options.output, {
      value: status,
      names: () => [status.name],
      table: () => controlText(cli, client, status),
    })
    return undefined
  }
  const target = await findTarget(client, args[0], signal)
  if (target.kind === 'job') {
    const [{ events }, { nodes }] = await Promise.all([
      client.listEvents({ job: target.job.job.name, limit: 10 }, { signal }),
      client.listNodes({ limit: 10_000 }, { signal }),
    ])
    const nodeNames = new Map<string, string>(nodes.map(({ id, name }) => [id, name]))
    await print(cli, options.output, {
      value: target.job,
      names: () => [target.job.job.name],
      table: () => jobText(cli, target.job, nodeNames) + eventsText(cli, events),
    })
    return undefined
  }
  const { allocation, nodeName } = target
  const [{ events }, stats] = await Promise.all([
    client.listEvents({ allocation: allocation.id, limit: 10 }, { signal }),
    // An allocation whose node is away is still shown.
    client.allocationStats({ allocation: allocation.id }, { signal }).catch(() => undefined),
  ])
  await print(cli, options.output, {
    value: { ...allocation, nodeName, stats: stats?.tasks ?? null },
    names: () => [allocation.id],
    table: () => allocationText(cli, allocation, nodeName, stats) + eventsText(cli, events),
  })
  return undefined
}

function controlText(cli: Cli, client: Client, status: Answer<'status'>): string {
  const { counts } = status
  return facts(cli.stdout, [
    ['control plane', client.url],
    ['cluster', status.name],
    ['version', status.version],
    ['up for', formatDuration(status.now - status.startedAt)],
    ['leader', status.leader.self ? `${status.leader.name} (this one)` : status.leader.name],
    ['index', status.index],
    ...Object.entries(counts).map(([name, count]) => [name, count] as const),
    ['you are', `${status.you.name} (${status.you.roles.join(', ')})`],
  ])
}

function jobText(
  cli: Cli,
  { job, slots, allocations }: Answer<'getJob'>,
  nodeNames: ReadonlyMap<string, string>,
): string {
  const out = cli.stdout
  const now = cli.clock.now()
  const head = facts(out, [
    ['job', job.name],
    ['type', job.type],
    ['state', jobStateCell(job)],
    ['copies', copiesText(job)],
    ['version', `${job.version}, ${age(now, job.changedAt)} ago`],
    ...(job.blocked === '' ? [] : [['blocked', { text: job.blocked, tone: 'bad' }] as const]),
  ])
  if (slots.length === 0) return head
  const byId = new Map(allocations.map((allocation) => [allocation.id, allocation]))
  const rows = slots.map((slot) => {
    const allocation = slot.allocation === null ? undefined : byId.get(slot.allocation)
    if (!allocation) return [slot.index, slot.allocation ?? '-', '-', '-', '-', '-', lastFailure(slot)]
    const ports = Object.entries(allocation.ports).map(([name, port]) => `${name}:${port}`)
    const pids = Object.values(allocation.tasks).flatMap(({ pid }) => (pid === undefined ? [] : [pid]))
    return [
      slot.index,
      allocation.id,
      nodeNames.get(allocation.node) ?? allocation.node,
      stateCell(allocation),
      pids.join(' ') || '-',
      ports.join(' ') || '-',
      allocation.message ??
        Object.values(allocation.tasks).find(({ message }) => message)?.message ??
        lastFailure(slot),
    ]
  })
  return `${head}\n${table(out, ['COPY', 'ALLOCATION', 'NODE', 'STATE', 'PID', 'PORTS', 'NOTE'], rows)}`
}

function lastFailure({ failures, failed }: Answer<'getJob'>['slots'][number]): string {
  const last = failures.at(-1)
  return last ? `failed ${failed === 1 ? 'once' : `${failed} times, last`}: ${last.message}` : ''
}

function allocationText(
  cli: Cli,
  row: Allocation,
  nodeName: string,
  stats: Answer<'allocationStats'> | undefined,
): string {
  const out = cli.stdout
  const now = cli.clock.now()
  const ports = Object.entries(row.ports).map(([name, port]) => `${name}:${port}`)
  const head = facts(out, [
    ['allocation', row.id],
    ['job', `${row.job}, version ${row.version}, copy ${row.slot}`],
    ['node', `${nodeName} (${row.node})`],
    ['state', stateCell(row)],
    ['age', age(now, row.createdAt)],
    ...(ports.length > 0 ? [['ports', ports.join(' ')] as const] : []),
    ...(row.reason ? [['stop asked', row.reason] as const] : []),
    ...(row.message ? [['note', row.message] as const] : []),
  ])
  const rows = Object.entries(row.tasks).map(([name, task]) => {
    const used = stats?.tasks[name]
    return [
      name,
      task.phase,
      task.healthy === undefined ? '-' : task.healthy ? 'yes' : 'no',
      task.restarts,
      task.pid ?? '-',
      used ? `${Math.round(used.memory / 2 ** 20)} MiB` : '-',
      used ? `${(used.cpuMs / 1000).toFixed(1)}s` : '-',
      task.exitCode ?? '-',
      task.message ?? '',
    ]
  })
  const titles = ['TASK', 'STATE', 'HEALTHY', 'RESTARTS', 'PID', 'MEMORY', 'CPU', 'EXIT', 'NOTE']
  return rows.length === 0 ? head : `${head}\n${table(out, titles, rows)}`
}

function eventsText(cli: Cli, events: readonly Event[]): string {
  if (events.length === 0) return ''
  const lines = events.map(({ at, level, message }) => {
    const tone = level === 'error' ? 'bad' : level === 'warning' ? 'busy' : 'plain'
    return `${paint(cli.stdout, 'faint', moment(at))}  ${paint(cli.stdout, tone, oneLine(message))}\n`
  })
  return `\n${lines.join('')}`
}
