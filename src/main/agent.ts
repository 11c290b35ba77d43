import { join } from 'node:path'
import { startAgent } from '../agent/agent.ts'
import { machineFacts } from '../agent/facts.ts'
import { usualImageBudget } from '../agent/images.ts'
import { SqliteLedger } from '../agent/ledger/sqlite.ts'
import { netProbe } from '../agent/probe/net.ts'
import { openWorkspace } from '../agent/workspace/disk.ts'
import type { Driver } from '../drivers/driver.ts'
import type { Clock } from '../kit/clock.ts'
import type { Log } from '../kit/log.ts'
import type { Random } from '../kit/random.ts'
import { Wakeup } from '../kit/wakeup.ts'
import { dialControl } from '../wire/http2/agent-side.ts'
import type { NodeIdentity } from './identity.ts'
import { keepRenewed } from './join.ts'
import { offerSandboxes } from './sandboxes/offer.ts'
import { version } from './version.ts'

/** What the owner of a node offers and allows. */
export interface NodeOffer {
  labels: Record<string, string>
  /** Path by name of the volumes that this node offers. */
  volumes: Record<string, string>
  /** Host paths that tasks may mount, with all below them. */
  hostPaths: readonly string[]
  counters: Record<string, number>
}

export interface NodeAgentOptions {
  identity: NodeIdentity
  /** Where the agent keeps everything of its own. */
  directory: string
  drivers: readonly Driver[]
  offer: NodeOffer
  env: Readonly<Record<string, string | undefined>>
  clock: Clock
  random: Random
  log: Log
}

/** Composes and starts the agent of a real machine. Disposing it leaves the workloads running. */
export async function startNodeAgent(options: NodeAgentOptions): Promise<AsyncDisposable> {
  const { directory, drivers, offer, clock, random, log } = options
  const ending = new AbortController()
  let { identity } = options
  const offered = {
    labels: offer.labels,
    counters: offer.counters,
    volumes: Object.keys(offer.volumes),
    address: ownAddress(identity),
  }
  const newFacts = new Wakeup()
  const sandboxes = await offerSandboxes({ directory, env: options.env, clock, random, log, newFacts })
  const sources = [...drivers, { name: 'sandbox', facts: () => sandboxes.facts() }]
  const agent = await startAgent({
    clock,
    random,
    log,
    ledger: SqliteLedger.open(join(directory, 'ledger.db'), { now: clock.now() }),
    workspace: openWorkspace({ root: directory, volumes: offer.volumes, hostPaths: [...offer.hostPaths], clock }),
    drivers,
    sandboxes,
    newFacts,
    probe: netProbe,
    node: { id: identity.node, name: identity.name, labels: offer.labels },
    imageBudget: await usualImageBudget(directory),
    facts: () => machineFacts({ clock, root: directory, drivers: sources, version, ...offered }),
    dial: ({ services, signal: until }) =>
      dialControl({ address: identity.address, identity, services, clock, log, signal: until }),
  })
  void keepRenewed(() => identity, {
    file: identityFile(directory),
    clock,
    random,
    signal: ending.signal,
    onRenewed: (renewed) => {
      identity = renewed
      log.info({}, "the node's certificate was renewed")
    },
    onError: (error) => log.warn({ err: error }, "the node's certificate could not be renewed yet"),
  })
  return {
    [Symbol.asyncDispose]: async () => {
      ending.abort(new Error('the agent is ending'))
      await agent.close()
      await sandboxes[Symbol.asyncDispose]()
    },
  }
}

export function identityFile(directory: string): string {
  return join(directory, 'identity.json')
}

/**
 * Where workloads of this node are reached. An agent whose control plane is on loopback is on the same machine: its
 * workloads then need not be open to others. Otherwise what the machine's facts say.
 */
function ownAddress({ address: { host } }: NodeIdentity): string | undefined {
  return host === 'localhost' || host === '::1' || host.startsWith('127.') ? '127.0.0.1' : undefined
}
