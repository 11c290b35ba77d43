import { performance } from 'node:perf_hooks'
import { startAgent } from '../src/guest/channel/testing.ts'
import type { GuestChannel } from '../src/guest/channel.ts'
import { lackingForVm, startGuestVm } from '../test/fixtures/guest-vm.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/** What the channel to a guest agent costs: over a socket pair on this machine, and into an emulated machine. */

const signal = AbortSignal.timeout(600_000)
const missing = await lackingForVm()
if (missing !== undefined) throw new Error(`this bench ${missing}`)

const figures: Figure[] = []
{
  await using agent = startAgent()
  await using channel = await agent.connect()
  await measure('socket pair', channel, { rounds: 200, bulkMiB: 200, asked: { exec: undefined, bulk: 50 } })
}
{
  const begun = performance.now()
  await using vm = await startGuestVm()
  const started = performance.now()
  let channel = await vm.connect()
  figures.push({ what: 'VM: disk and initramfs made', reached: started - begun, unit: 'ms' })
  figures.push({
    what: 'VM: process up to first answer of the agent',
    reached: performance.now() - started,
    unit: 'ms',
  })
  await measure('VM', channel, { rounds: 60, bulkMiB: 24, asked: { exec: 26, bulk: undefined } })
  const again: number[] = []
  for (let round = 0; round < 20; round += 1) {
    await channel[Symbol.asyncDispose]()
    again.push(
      await timed(async () => {
        channel = await vm.connect({ token: channel.nextToken })
      }),
    )
  }
  figures.push({ what: 'VM: a new connection, p50', reached: quantile(sorted(again), 0.5), unit: 'ms' })
  const identities: number[] = []
  for (let round = 0; round < 20; round += 1) {
    identities.push(
      await timed(() =>
        channel.identify(
          {
            generation: `g${round}`,
            entropy: new Uint8Array(32).fill(round),
            now: 1_800_000_000_000,
            hostname: `h${round}`,
            machineId: 'a'.repeat(32),
            env: {},
            network: {
              mac: '02:00:00:00:00:01',
              address: '10.0.0.2',
              prefix: 24,
              gateway: '10.0.0.1',
              nameservers: [],
            },
            fresh: true,
          },
          { signal },
        ),
      ),
    )
  }
  figures.push({ what: 'VM: identify with network, p50', reached: quantile(sorted(identities), 0.5), unit: 'ms' })
  await channel[Symbol.asyncDispose]()
}
report('guest-agent', figures)

interface Sizes {
  rounds: number
  bulkMiB: number
  asked: { exec: number | undefined; bulk: number | undefined }
}

async function measure(where: string, channel: GuestChannel, { rounds, bulkMiB, asked }: Sizes): Promise<void> {
  const [pings, execs]: [number[], number[]] = [[], []]
  for (let round = 0; round < rounds + 10; round += 1) {
    const ping = await timed(() => channel.metrics({ signal }))
    const exec = await timed(async () => {
      const execution = await channel.exec({ command: ['/bin/true'], env: {} }, { signal })
      await execution.exited
    })
    if (round < 10) continue
    pings.push(ping)
    execs.push(exec)
  }
  const figure = (what: string, reached: number, unit: string, wanted?: number, better: 'less' | 'more' = 'less') =>
    figures.push({
      what: `${where}: ${what}`,
      reached,
      unit,
      ...(wanted === undefined ? {} : { asked: wanted, better }),
    })
  figure('metrics, p50', quantile(sorted(pings), 0.5), 'ms')
  figure('exec of /bin/true, p50', quantile(sorted(execs), 0.5), 'ms', asked.exec)
  figure('exec of /bin/true, p90', quantile(sorted(execs), 0.9), 'ms')
  const speed = (ms: number) => (bulkMiB * 1.048576) / (ms / 1000)
  const piece = Buffer.alloc(2 ** 20, 7)
  const write = async () => {
    const writer = await channel.files.write('/tmp/tutti-bench-file', { signal })
    for (let n = 0; n < bulkMiB; n += 1) if (!writer.write(piece)) await new Promise((go) => writer.once('drain', go))
    writer.end()
    await writer.written
  }
  const read = async () => {
    for await (const _ of await channel.files.read('/tmp/tutti-bench-file', { signal }));
  }
  const output = async () => {
    const command = ['dd', 'if=/dev/zero', 'bs=1M', `count=${bulkMiB}`]
    const execution = await channel.exec({ command, env: {} }, { signal })
    execution.stderr?.resume()
    for await (const _ of execution.stdout);
    await execution.exited
  }
  figure('host to guest, a file', speed(await timed(write)), 'MB/s', asked.bulk, 'more')
  figure('guest to host, a file', speed(await timed(read)), 'MB/s', asked.bulk, 'more')
  figure('guest to host, output of a command', speed(await timed(output)), 'MB/s', asked.bulk, 'more')
  await channel.files.remove('/tmp/tutti-bench-file', { signal })
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begun = performance.now()
  await work()
  return performance.now() - begun
}
