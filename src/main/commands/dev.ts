import { resolve } from 'node:path'
import type { Cli } from '../../cli/cli.ts'
import { defaultPort, findHome } from '../../cli/home.ts'
import type { DevCommand } from '../../cli/main-commands.ts'
import { createJoinToken } from '../../control/actions/tokens.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { identityFile, startNodeAgent } from '../agent.ts'
import { machineDrivers } from '../drivers.ts'
import { readIdentity, writeIdentity } from '../identity.ts'
import { joinCluster } from '../join.ts'
import { openLog } from '../log.ts'
import type { RunningServer } from '../server.ts'
import { ownName } from './agent.ts'
import { ended, launchServer, urlOf } from './server.ts'

/** `tutti dev`: control plane and agent of this machine in one process. What runs goes on when it ends. */
export async function run(cli: Cli, command: DevCommand): Promise<number> {
  await using dev = await startDev(cli, command)
  cli.stdout.write(`Tutti is ready at ${urlOf(dev.server)}, with this machine as its node.\n`)
  const tutti = calledAs(cli)
  cli.stdout.write(`Try: ${tutti} nodes · ${tutti} run --driver process -- echo hello · ${tutti} ps\n`)
  cli.stdout.write(
    'Ctrl-C ends the control plane and the agent; what they started goes on and is taken over next time.\n',
  )
  await ended(cli.signal)
  return 0
}

/** What to type to reach the command line again: a checkout is not in anybody's PATH. The launcher says it. */
export function calledAs({ env }: Pick<Cli, 'env'>): string {
  return env.TUTTI_CALLED_AS || 'tutti'
}

export interface Dev extends AsyncDisposable {
  server: RunningServer
}

export async function startDev(cli: Cli, command: DevCommand): Promise<Dev> {
  await using undo = new AsyncDisposableStack()
  const home = command.home === undefined ? cli.home : findHome({ env: { TUTTI_HOME: resolve(command.home) } })
  const listen = command.listen ?? `127.0.0.1:${defaultPort}`
  const server = undo.use(
    await launchServer({ home, directory: home.serverData, listen, plainListen: command.plainListen, name: 'dev' }),
  )
  const directory = home.agentData
  const drivers = machineDrivers({ directory, clock: systemClock, env: cli.env })
  undo.use(
    await startNodeAgent({
      identity: await identifyHere(server, directory, cli.signal),
      directory,
      drivers,
      offer: { labels: {}, volumes: {}, hostPaths: [], counters: {} },
      env: cli.env,
      clock: systemClock,
      random: systemRandom,
      log: openLog(),
    }),
  )
  await nodeIsReady(server, cli.signal)
  const owned = undo.move()
  return { server, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** This machine as a node of the control plane beside it: joined once, by the same way as every other. */
async function identifyHere(server: RunningServer, directory: string, signal: AbortSignal) {
  const file = identityFile(directory)
  const { hostname: host, port } = new URL(urlOf(server))
  const address = { host: host.replace(/^\[|\]$/g, ''), port: Number(port) }
  const kept = await readIdentity(file)
  const { control } = server
  if (kept && control.store.view.get('nodes', kept.node)) return { ...kept, address }
  const { token } = await createJoinToken(control, {
    by: 'start',
    name: 'this-machine',
    expiresInMs: 60_000,
    uses: 1,
    labels: {},
    caFingerprint: server.caFingerprint,
  })
  const identity = await joinCluster({ token, address, name: ownName(), clock: systemClock, signal })
  await writeIdentity(file, identity)
  return identity
}

/** The machine is of no use before its agent has said what it is. */
async function nodeIsReady({ control }: RunningServer, signal: AbortSignal): Promise<void> {
  const since = systemClock.monotonic()
  const ready = () => [...control.store.view.all('nodes')].some((node) => node.phase === 'ready')
  while (!ready() && !signal.aborted && systemClock.monotonic() - since < readyWithinMs) {
    await systemClock.sleep(10, { signal }).catch(() => {})
  }
}

const readyWithinMs = 20_000
