import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from '../src/client/client.ts'
import { Cluster } from '../test/system/cluster.ts'

/** A control plane as its own process, and what to measure it with. Disposing it ends all of it. */
export class Bench implements AsyncDisposable {
  readonly cluster: Cluster
  #server: ChildProcess
  readonly #fleets: ChildProcess[] = []

  constructor(cluster: Cluster, server: ChildProcess) {
    this.cluster = cluster
    this.#server = server
  }

  get serverPid(): number {
    return this.#server.pid ?? 0
  }

  client(): Promise<Client> {
    return this.cluster.client()
  }

  /** Starts this many agents with fake tasks in one process, and waits until all of them are ready. */
  async startFleet(nodes: number, prefix = 'fake'): Promise<ChildProcess> {
    await using client = await this.client()
    const { secret } = await client.createJoinToken({ body: { uses: null, expiresInMs: 3_600_000 } })
    const fleet = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        'bench/fleet.ts',
        '--nodes',
        String(nodes),
        '--token',
        secret,
        '--prefix',
        prefix,
        this.cluster.address,
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    )
    this.#fleets.push(fleet)
    await this.until(client, (counts) => (counts.ready ?? 0) >= nodes)
    return fleet
  }

  async until(client: Client, holds: (counts: Record<string, number>) => boolean): Promise<void> {
    while (!holds((await client.status()).counts)) await sleep(10)
  }

  /** Kills the control plane and starts it again; ms until it answered a request. */
  async restartServer(): Promise<number> {
    await this.cluster.kill(this.#server)
    await using client = await this.client()
    const begun = performance.now()
    this.#server = this.cluster.start('server', [
      'server',
      '--listen',
      this.cluster.address,
      '--data',
      `${this.cluster.directory}/server`,
    ])
    for (;;) {
      const answered = await client.status().then(
        () => true,
        () => false,
      )
      if (answered) return performance.now() - begun
      await sleep(5)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const fleet of this.#fleets) {
      if (fleet.exitCode !== null || fleet.signalCode !== null) continue
      fleet.kill('SIGKILL')
      await once(fleet, 'exit')
    }
    await this.cluster[Symbol.asyncDispose]()
  }
}

export async function openBench(): Promise<Bench> {
  const cluster = await Cluster.open()
  return new Bench(cluster, await cluster.startServer())
}
