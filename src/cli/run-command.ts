import type { Client } from '../client/client.ts'
import type { PublicAllocation } from '../contract/allocation.ts'
import { Fault } from '../model/fault.ts'
import type { JobSpec } from '../model/job.ts'
import type { Cli } from './cli.ts'
import { exitCodes } from './exit-codes.ts'
import { durationOption, flagOption, textOption } from './options.ts'
import { copyLogs } from './output/log-writer.ts'
import { type Progress, progress } from './output/progress.ts'
import { reportFailure } from './report-failure.ts'
import { defaultWaitMs, failureOf, followJob, isLive, waitUntilEnded, waitUntilRunning } from './wait.ts'

/**
 * Runs one command as a job of its own: its output is ours, its exit code is ours, and Ctrl-C stops it. A second Ctrl-C
 * leaves at once, and the job ends by itself. When Tutti fails rather than the command, the exit code is 125.
 */
export async function runCommand(cli: Cli, spec: JobSpec, options: Record<string, unknown>): Promise<number> {
  try {
    await using client = await cli.client(textOption(options, 'context'))
    const job = spec.name
    const { version } = await client.applyJob({ job, body: { spec, expectVersion: 0 } }, { signal: cli.signal })
    if (flagOption(options, 'detach')) {
      cli.stdout.write(`${job}\n`)
      return exitCodes.ok
    }
    const withinMs = durationOption(options, 'wait') ?? defaultWaitMs
    if (spec.type === 'service') {
      using shown = progress(cli)
      await waitUntilRunning(cli, client, { job, version, withinMs, shown })
      cli.stdout.write(`${job}\n`)
      return exitCodes.ok
    }
    return await attend(cli, client, { job, withinMs, remove: flagOption(options, 'rm') })
  } catch (error) {
    const code = await reportFailure(cli, error)
    return code === exitCodes.ok || code === exitCodes.interrupted ? code : exitCodes.tuttiItself
  }
}

interface Attended {
  job: string
  withinMs: number
  remove: boolean
}

async function attend(cli: Cli, client: Client, { job, withinMs, remove }: Attended): Promise<number> {
  using shown = progress(cli, { quiet: true })
  const left = Promise.withResolvers<'left'>()
  const leaving = new AbortController()
  let interrupts = 0
  using _interrupt = cli.onInterrupt(() => {
    interrupts += 1
    if (interrupts > 1) {
      leaving.abort(new Error('left'))
      left.resolve('left')
      return
    }
    shown.say('stopping it; Ctrl-C again leaves it to end by itself', 'busy')
    client.stopJob({ job }).catch((error: unknown) => shown.say(Fault.from(error).message, 'bad'))
  })
  const signal = AbortSignal.any([cli.signal, leaving.signal])
  const outcome = await Promise.race([left.promise, followOutput(cli, client, { job, withinMs, shown, signal })])
  if (outcome === 'left') return exitCodes.interrupted
  if (remove) {
    await client.stopJob({ job })
    await waitUntilEnded(cli, client, { job, withinMs, shown })
    await client.purgeJob({ job })
  }
  if (interrupts > 0) return exitCodes.interrupted
  if (outcome) return exitCodeOf(outcome)
  throw new Fault('conflict', `job "${job}" was stopped before its command ran`)
}

/** The command's output as it comes; resolves with its allocation once that has ended. */
async function followOutput(
  cli: Cli,
  client: Client,
  { job, withinMs, shown, signal }: { job: string; withinMs: number; shown: Progress; signal: AbortSignal },
): Promise<PublicAllocation | undefined> {
  let started: PublicAllocation | undefined
  await followJob(cli, client, { job, withinMs, shown }, async (view) => {
    started = [...view.allocations.values()].find(({ phase }) => phase !== 'pending' && phase !== 'preparing')
    const isOver = !view.job || (view.job.stopped && ![...view.allocations.values()].some(isLive))
    return started !== undefined || isOver
  }).catch(async (error: unknown) => {
    // What nobody waits for any more must not run by surprise, hours later.
    await client.stopJob({ job }).then(
      () => shown.say(`${job}: it is stopped, so that it does not run later`, 'busy'),
      () => {},
    )
    throw error
  })
  if (!started) return undefined
  const { id } = started
  shown[Symbol.dispose]()
  await copyLogs(cli, client.logs({ allocation: id, follow: true }, { signal })).catch((error: unknown) => {
    // The command may have ended on a node that cannot show its output: that it ended is still known.
    shown.say(`its output cannot be shown: ${Fault.from(error).message}`, 'busy')
  })
  return untilEnded(cli, client, id)
}

/** The agent reports an end a moment after the output has ended. */
async function untilEnded(cli: Cli, client: Client, id: string): Promise<PublicAllocation> {
  for (;;) {
    const { allocation } = await client.getAllocation({ allocation: id }, { signal: cli.signal })
    if (!isLive(allocation)) return allocation
    await cli.clock.sleep(50, { signal: cli.signal })
  }
}

function exitCodeOf(allocation: PublicAllocation): number {
  const codes = Object.values(allocation.tasks).flatMap(({ exitCode }) => (exitCode === undefined ? [] : [exitCode]))
  const [first] = codes
  if (first !== undefined) return codes.find((code) => code !== 0) ?? first
  throw new Fault('unavailable', `the command did not run to its end: ${failureOf(allocation)}`)
}
