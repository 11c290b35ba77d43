import type { Cli } from '../../cli/cli.ts'
import type { DevCommand } from '../../cli/main-commands.ts'
import { applyJob } from '../../control/actions/apply-job.ts'
import { purgeJob, stopJob } from '../../control/actions/stop-job.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { isLive } from '../../model/allocation.ts'
import { JobSpec } from '../../model/job.ts'
import { helloWebProgram } from '../demo/hello-web.ts'
import { busyboxImage, digestOf } from '../demo/image.ts'
import { demoJobs } from '../demo/jobs.ts'
import { serveDemo } from '../demo/source.ts'
import type { RunningServer } from '../server.ts'
import { calledAs, type Dev, startDev } from './dev.ts'
import { ended, urlOf } from './server.ts'

const by = 'demo'
/** Longest wait for the demo's jobs to run, or to end. */
const patienceMs = 60_000

/** `tutti demo`: everything of `tutti dev`, and example jobs that are cleaned up at the end. */
export async function run(cli: Cli, command: DevCommand): Promise<number> {
  const say = (line: string) => cli.stdout.write(`${line}\n`)
  say('Starting the control plane and an agent on this machine …')
  await using dev = await startDev(cli, command)
  const { server } = dev
  const program = Buffer.from(helloWebProgram(process.execPath))
  const image = await busyboxImage(process.arch === 'x64' ? 'amd64' : 'arm64')
  await using source = await serveDemo(new Map([['/hello-web', program]]), image)
  const jobs = demoJobs({
    source: source.address,
    checksum: digestOf(program),
    image: await containerImage(dev, image !== undefined, source.address),
  }).map((job) => JobSpec.parse(job))
  for (const job of jobs) await applyJob(server.control, job, { by })
  try {
    for (const job of jobs) say(await outcome(server, job.name, cli.signal))
    for (const line of whatToTry(server, jobs, calledAs(cli))) say(line)
    await ended(cli.signal)
  } finally {
    say('\nStopping the example …')
    await cleanUp(server, jobs)
  }
  say('Everything that the demo started has ended.')
  return 0
}

/** The image for the container example: our own where this machine has a static busybox, else a public one. */
async function containerImage(dev: Dev, isServed: boolean, address: string): Promise<string | undefined> {
  const node = [...dev.server.control.store.view.all('nodes')].find((each) => each.facts?.drivers.container?.healthy)
  if (!node) return undefined
  return isServed ? `${address}/demo/hello:latest` : 'docker.io/library/alpine:3'
}

/** One line on what became of the job: waits until it runs, has ended, or clearly will not. */
async function outcome(server: RunningServer, name: string, signal: AbortSignal): Promise<string> {
  const { view } = server.control.store
  const since = systemClock.monotonic()
  while (!signal.aborted) {
    const job = view.get('jobs', name)
    const all = [...view.by('allocationsByJob', name)]
    const good = all.filter((row) => row.healthy || row.phase === 'complete').length
    if (job && good >= job.spec.count)
      return `  ✓ ${name}: ${good} of ${job.spec.count} ${job.spec.type === 'batch' ? 'running or done' : 'healthy'}`
    const failed = all.find((row) => row.phase === 'failed')
    if (failed) return `  ✗ ${name}: ${failed.message ?? 'failed'}`
    if (job && job.blocked !== '') return `  ✗ ${name}: ${job.blocked}`
    if (systemClock.monotonic() - since > patienceMs)
      return `  … ${name}: still starting; "tutti status ${name}" says more`
    await systemClock.sleep(50, { signal }).catch(() => {})
  }
  return `  … ${name}: not waited for`
}

function whatToTry(server: RunningServer, jobs: readonly JobSpec[], tutti: string): string[] {
  const { view } = server.control.store
  const [first] = view.by('allocationsByJob', 'hello-web')
  const address = first && view.get('nodes', first.node)?.facts?.address
  const hasContainer = jobs.some(({ name }) => name === 'hello-container')
  const tries: [command: string, what: string][] = [
    [`${tutti} ps`, 'what runs where'],
    [`${tutti} status hello-web`, 'one job in full'],
    [`${tutti} logs -f hello-web`, 'its output'],
  ]
  if (first?.ports.http && address) tries.push([`curl http://${address}:${first.ports.http}`, 'ask a copy of it'])
  tries.push([`${tutti} exec -it hello-web -- sh`, 'a shell beside it'])
  tries.push(['kill -9 PID', `a PID that "${tutti} status hello-web" shows`])
  tries.push([`${tutti} events -f`, 'watch how that is healed'])
  tries.push([`${tutti} run --driver process -- uname -a`, 'a command of your own'])
  if (hasContainer) tries.push([`${tutti} logs hello-container`, 'what a container says'])
  else tries.push([`${tutti} doctor`, 'what to install to run containers'])
  const widest = Math.max(...tries.map(([command]) => command.length))
  return [
    '',
    `The API is at ${urlOf(server)}/v1 (its description: /v1/openapi.json); the command line finds it by itself.`,
    'In another terminal, try:',
    ...tries.map(([command, what]) => `  ${command.padEnd(widest)}  ${what}`),
    '',
    'Ctrl-C stops the example and cleans up.',
  ]
}

async function cleanUp({ control }: RunningServer, jobs: readonly JobSpec[]): Promise<void> {
  const { view } = control.store
  for (const { name } of jobs) await stopJob(control, name, { by }).catch(() => {})
  const since = systemClock.monotonic()
  for (const { name } of jobs) {
    while ([...view.by('allocationsByJob', name)].some(isLive) && systemClock.monotonic() - since < patienceMs)
      await systemClock.sleep(50)
    await purgeJob(control, name, { by }).catch(() => {})
  }
  // The agent removes what the control plane no longer names; give it the moment that takes.
  await systemClock.sleep(300)
}
