import type { Answer } from '../../client/client.ts'
import type { Cli, Given } from '../cli.ts'
import { textOption } from '../options.ts'
import { print } from '../output/print.ts'
import { oneLine, paint } from '../output/text.ts'
import { readJobFiles } from '../spec/read-files.ts'

type Plan = Answer<'planJob'>

/** `tutti plan`: what `tutti run` of the same files would do. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  const jobs = await readJobFiles(cli, args)
  await using client = await cli.client(textOption(options, 'context'))
  const plans: Plan[] = []
  for (const { spec } of jobs) plans.push(await client.planJob({ body: { spec } }, { signal: cli.signal }))
  await print(cli, options.output, {
    value: plans,
    names: () => plans.filter(isChange).map(({ job }) => job),
    table: () => plans.map((plan) => planText(cli, plan)).join('\n'),
  })
  return undefined
}

function isChange({ changes, moves }: Plan): boolean {
  return changes.length > 0 || moves.place > 0 || moves.stop > 0
}

function planText(cli: Cli, plan: Plan): string {
  const out = cli.stdout
  const { job, version, changes, moves, blocked } = plan
  if (!isChange(plan) && blocked === '') return `${job}: nothing to do, version ${version} is the same\n`
  const lines = [version === 0 ? `${job}: a new job` : `${job}: version ${version} becomes ${version + 1}`]
  // All of a new job is new, and stands in the file.
  for (const { path, before, after } of version === 0 ? [] : changes) {
    if (before === undefined) lines.push(paint(out, 'good', `  + ${path}: ${show(after)}`))
    else if (after === undefined) lines.push(paint(out, 'bad', `  - ${path}: ${show(before)}`))
    else lines.push(paint(out, 'busy', `  ~ ${path}: ${show(before)} → ${show(after)}`))
  }
  const nodes = Object.entries(moves.nodes).map(([node, count]) => `${count} on ${node}`)
  lines.push(
    `  ${moves.place} to start${nodes.length > 0 ? ` (${nodes.join(', ')})` : ''}, ${moves.stop} to stop, ${moves.keep} to go on`,
  )
  if (blocked !== '') lines.push(paint(out, 'bad', `  ${oneLine(blocked)}`))
  return `${lines.join('\n')}\n`
}

function show(value: unknown): string {
  const text = oneLine(typeof value === 'string' ? value : (JSON.stringify(value) ?? ''))
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
}
