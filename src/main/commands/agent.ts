import { hostname } from 'node:os'
import type { Cli } from '../../cli/cli.ts'
import { defaultPort } from '../../cli/home.ts'
import type { AgentCommand } from '../../cli/main-commands.ts'
import { caFingerprint } from '../../control/authority/authority.ts'
import { systemClock } from '../../kit/system-clock.ts'
import { systemRandom } from '../../kit/system-random.ts'
import { Fault } from '../../model/fault.ts'
import { Name } from '../../model/ids.ts'
import { parseAddress } from '../address.ts'
import { identityFile, startNodeAgent } from '../agent.ts'
import { machineDrivers } from '../drivers.ts'
import { type NodeIdentity, readIdentity, writeIdentity } from '../identity.ts'
import { joinCluster, renew } from '../join.ts'
import { openLog } from '../log.ts'
import { ended } from './server.ts'

/** `tutti agent`: makes this machine a node, until it is told to end. Workloads go on without it. */
export async function run(cli: Cli, command: AgentCommand): Promise<number> {
  const directory = command.data ?? cli.home.agentData
  const identity = await identify(cli, directory, command)
  const { labels, volumes, counters, allowHostPaths: hostPaths } = command
  const offer = { labels, volumes: absolute(volumes), counters, hostPaths }
  const drivers = machineDrivers({ directory, clock: systemClock, env: cli.env })
  await using _agent = await startNodeAgent({
    identity,
    directory,
    drivers,
    offer,
    env: cli.env,
    clock: systemClock,
    random: systemRandom,
    log: openLog(),
  })
  cli.stdout.write(
    `node "${identity.name}" serves ${identity.address.host}:${identity.address.port}; its files are in ${directory}\n`,
  )
  await ended(cli.signal)
  return 0
}

/** Who this node is: as kept from when it joined, or as it joins now. An address given later replaces the one kept. */
async function identify(cli: Cli, directory: string, { join, name }: AgentCommand): Promise<NodeIdentity> {
  const file = identityFile(directory)
  const kept = await readIdentity(file)
  if (kept && (name ?? kept.name) !== kept.name) {
    throw new Fault(
      'conflict',
      `${directory} belongs to node "${kept.name}" already; give this one its own with --data`,
    )
  }
  if (!join) {
    if (kept) return kept
    throw new Fault(
      'invalid',
      'this machine has not joined a cluster yet; start it once with "tutti agent --join TOKEN ADDRESS", the token from "tutti token create --join"',
    )
  }
  const address = parseAddress(join.address, defaultPort)
  const identity =
    (kept && (await stillGood({ ...kept, address }, join.token, cli.signal))) ??
    (await joinCluster({
      token: join.token,
      address,
      name: name ?? kept?.name ?? ownName(),
      clock: systemClock,
      signal: cli.signal,
    }))
  await writeIdentity(file, identity)
  return identity
}

/** The kept identity, when it is of the token's cluster and that cluster still knows it; joining again would cost a use. */
async function stillGood(kept: NodeIdentity, token: string, signal: AbortSignal): Promise<NodeIdentity | undefined> {
  if (!token.endsWith(caFingerprint(kept.ca))) return undefined
  try {
    return await renew(kept, { clock: systemClock, signal })
  } catch (error) {
    if (error instanceof Fault && error.code === 'unavailable') return kept
    return undefined
  }
}

/** The machine's name, made to fit. */
export function ownName(): string {
  const name = (hostname().split('.')[0] ?? '')
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 63)
  return Name.safeParse(name).success ? name : 'node'
}

function absolute(volumes: Record<string, string>): Record<string, string> {
  for (const [name, path] of Object.entries(volumes)) {
    if (!path.startsWith('/')) throw new Fault('invalid', `--volume ${name}=${path}: the path must be absolute`)
  }
  return volumes
}
