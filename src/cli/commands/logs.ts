import type { Client } from '../../client/client.ts'
import { Fault } from '../../model/fault.ts'
import type { Cli, Given } from '../cli.ts'
import { countOption, flagOption, textOption } from '../options.ts'
import { copyLogs } from '../output/log-writer.ts'
import { findTarget, type Target } from '../targets.ts'

/** `tutti logs`: output of one allocation, or of all copies of a job with each line named. */
export async function run(cli: Cli, { args, options }: Given): Promise<undefined> {
  await using client = await cli.client(textOption(options, 'context'))
  const [word = '', task] = args
  const target = await findTarget(client, word, cli.signal)
  const allocations = allocationsOf(target)
  const tail = countOption(options, 'tail')
  const wanted = {
    ...(task === undefined ? {} : { task }),
    ...(tail === undefined ? {} : { tail }),
    stream: flagOption(options, 'stderr') ? 'stderr' : flagOption(options, 'stdout') ? 'stdout' : 'both',
    follow: flagOption(options, 'follow'),
  } as const
  const several = allocations.length > 1
  const outcomes = await Promise.allSettled(
    allocations.map(({ id, slot }) =>
      copyLogs(cli, read(client, { allocation: id, ...wanted }, cli.signal), several ? `${slot} | ` : ''),
    ),
  )
  if (cli.signal.aborted) return undefined
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected')
  const first = failures[0]
  if (first && failures.length === outcomes.length) throw first.reason
  for (const { reason } of failures) cli.stderr.write(`tutti: one copy is left out: ${Fault.from(reason).message}\n`)
  return undefined
}

function read(client: Client, input: Parameters<Client['logs']>[0], signal: AbortSignal) {
  return client.logs(input, { signal })
}

/** The live copies of a job, or its newest ones when none lives. */
function allocationsOf(target: Target): { id: string; slot: number }[] {
  if (target.kind === 'allocation') return [target.allocation]
  const { allocations, job } = target.job
  const live = allocations.filter(({ phase }) => phase === 'running' || phase === 'preparing' || phase === 'pending')
  const begun = (live.length > 0 ? live : allocations).toSorted((a, b) => a.slot - b.slot)
  if (begun.length > 0) return begun
  throw new Fault(
    'conflict',
    `no copy of job "${job.name}" has been started yet${job.blocked ? `: ${job.blocked}` : ''}`,
  )
}
