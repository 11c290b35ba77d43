import { parseArgs } from 'node:util'
import { startAgent } from '../src/agent/agent.ts'
import { MemoryLedger } from '../src/agent/ledger/memory.ts'
import { memoryWorkspace } from '../src/agent/workspace/memory.ts'
import { FakeDriver } from '../src/drivers/fake/fake-driver.ts'
import { FakeMachine } from '../src/drivers/fake/fake-machine.ts'
import { silentLog } from '../src/kit/log.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { systemRandom } from '../src/kit/system-random.ts'
import { parseAddress } from '../src/main/address.ts'
import { joinCluster } from '../src/main/join.ts'
import type { NodeFacts } from '../src/model/node.ts'
import { dialControl } from '../src/wire/http2/agent-side.ts'

/**
 * Many real agents in one process, each with its own certificate and TLS connection, whose tasks are fake: for
 * measuring the control plane. `node bench/fleet.ts --nodes 1000 --token TOKEN HOST:PORT`; prints "ready" when all
 * have joined.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    nodes: { type: 'string', default: '1' },
    token: { type: 'string', default: '' },
    prefix: { type: 'string', default: 'fake' },
  },
})
const address = parseAddress(positionals[0] ?? '', 7447)
const { signal } = new AbortController()
const count = Number(values.nodes)

for (let first = 0; first < count; first += 16) {
  await Promise.all(Array.from({ length: Math.min(16, count - first) }, (_, offset) => join(first + offset)))
}
console.log('ready')

async function join(index: number): Promise<void> {
  const name = `${values.prefix}-${index}`
  const identity = await joinCluster({ token: values.token, address, name, clock: systemClock, signal })
  const driver = new FakeDriver({ machine: new FakeMachine({ clock: systemClock }), clock: systemClock })
  const facts: NodeFacts = {
    os: 'linux',
    arch: 'amd64',
    hostname: name,
    version: '0',
    cores: 64,
    coreMHz: 3000,
    memory: 256 * 2 ** 30,
    disk: 2 ** 42,
    drivers: { fake: await driver.facts() },
    attributes: {},
    counters: {},
    labels: {},
    volumes: [],
    address: '127.0.0.1',
    ports: [20_000, 32_000],
  }
  await startAgent({
    clock: systemClock,
    random: systemRandom,
    log: silentLog,
    // Nobody kills these agents, so they need not remember.
    ledger: new MemoryLedger({ copies: false }),
    workspace: memoryWorkspace,
    drivers: [driver],
    probe: { http: async () => ({ ok: true }), tcp: async () => ({ ok: true }) } as never,
    node: { id: identity.node, name },
    facts: async () => facts,
    dial: ({ services, signal: until }) =>
      dialControl({ address, identity, services, clock: systemClock, signal: until }),
    signal,
  })
}
