import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Sandbox } from '../src/client/sandbox.ts'
import type { PublicBuild } from '../src/contract/build.ts'
import { lackingSandboxes, SandboxWorld } from '../test/fixtures/sandboxes.ts'
import { type Figure, quantile, report, sorted } from './figures.ts'

/**
 * Sandboxes as a program sees them, through client, API, control plane, agent and guest: a small Debian with Python,
 * 256 MiB, on whatever accelerator this machine has. Everything shares its processors.
 */

const rounds = Number(process.env['ROUNDS'] ?? 25)
const figures: Figure[] = []
const lacking = await lackingSandboxes()
if (lacking === undefined) await measure()
else console.log(`skipped: ${lacking}`)

async function measure(): Promise<void> {
  await using world = await SandboxWorld.open({
    recipe: { ready: { command: 'python3 -c "print(1)"', timeoutMs: 60_000 } },
  })
  await startWays(world)
  await python(world)
  await pauses(world)
  await forks(world)
  await hundred(world)
  report('sandbox', figures)
}

/** Create to the first command's output: from the running pool, from VMMs that wait, from nothing. */
async function startWays(world: SandboxWorld): Promise<void> {
  const ways = [
    { what: 'create to first output, running pool', ahead: '8,2', p50: 40, p99: 100 },
    { what: 'create to first output, generic pool', ahead: '0,2', p50: 150 },
    { what: 'create to first output, no pool', ahead: '0,0', p50: 170 },
  ]
  for (const { what, ahead, p50, p99 } of ways) {
    await world.restartAgent({ signal: 'SIGTERM', env: { TUTTI_AHEAD: ahead } })
    const times: number[] = []
    for (let round = -3; round < rounds; round++) {
      const begun = performance.now()
      const sandbox = await world.create()
      await out(sandbox, ['echo', 'hi'])
      if (round >= 0) times.push(performance.now() - begun)
      await sandbox.kill()
      // What is made ahead is made when nobody asks.
      await sleep(ahead === '0,0' ? 100 : 2000)
    }
    add(what, times, p50, p99)
  }
  await world.restartAgent({ signal: 'SIGTERM' })
}

async function python(world: SandboxWorld): Promise<void> {
  const times: number[] = []
  for (let round = -3; round < rounds / 2; round++) {
    const sandbox = await world.create()
    const begun = performance.now()
    await out(sandbox, ['python3', '-c', 'print(1)'])
    if (round >= 0) times.push(performance.now() - begun)
    await sandbox.kill()
    await sleep(2000)
  }
  add("python3 -c 'print(1)' in a fresh sandbox, pooled", times, 250)
}

/*
 * "Answers": the guest agent has replied and the guest knows who it is, which is when `resume` and `fork` return. What a first
 * command takes beyond that, in which the CPU translates all of it anew where it is emulated, is told separately.
 */

/** What was dirtied lies in memory only, and does not compress. */
function dirty(mebibytes: number, name: string): string {
  return `head -c ${mebibytes * 2 ** 20} /dev/urandom > /dev/shm/${name}`
}

async function pauses(world: SandboxWorld): Promise<void> {
  const stopped: number[] = []
  const saved: number[] = []
  const resumed: number[] = []
  const used: number[] = []
  const added: number[] = []
  for (let round = 0; round < 6; round++) {
    await using sandbox = await world.create()
    await out(sandbox, `mount -o remount,size=200m /dev/shm; ${dirty(100, 'x')}`)
    await sleep(500)
    const first = await pausedBuild(world, sandbox)
    stopped.push(first.saved?.stoppedMs ?? Number.NaN)
    saved.push(first.saved?.savedMs ?? Number.NaN)
    await sleep(500)
    const begun = performance.now()
    await sandbox.resume()
    resumed.push(performance.now() - begun)
    await out(sandbox, ['true'])
    used.push(performance.now() - begun)
    await out(sandbox, dirty(10, 'y'))
    const second = await pausedBuild(world, sandbox)
    added.push((second.addedBytes ?? Number.NaN) / 2 ** 20)
  }
  add('pause, 100 MiB dirtied: the guest stands still', stopped, 80)
  add('the same: safe on disk as chunks', saved, 500)
  add('resume of it, until the guest answers', resumed, 120)
  add('the same, to the end of a first command', used)
  figures.push({
    what: 'bytes stored by a second pause after touching 10 MiB',
    reached: Math.max(...added),
    unit: 'MiB',
    asked: 14,
    better: 'less',
  })
}

async function pausedBuild({ tutti }: SandboxWorld, sandbox: Sandbox): Promise<PublicBuild> {
  const { build } = await sandbox.pause()
  return (await tutti.client.getBuild({ build })).build
}

async function forks(world: SandboxWorld): Promise<void> {
  const answered: number[] = []
  const used: number[] = []
  for (let round = 0; round < 3; round++) {
    await using sandbox = await world.create()
    await out(sandbox, dirty(20, 'x'))
    const begun = performance.now()
    const made = await sandbox.fork(20)
    answered.push(performance.now() - begun)
    await Promise.all(made.map((fork) => out(fork, ['true'])))
    used.push(performance.now() - begun)
    await Promise.all(made.map((fork) => fork.kill()))
  }
  add('fork into 20 that each answer', answered, 3000)
  add('the same, to the end of a first command in each', used)
}

/** What each clone has for itself, when it has come to rest. */
async function idleMemory(world: SandboxWorld, clones: Sandbox[]): Promise<void> {
  await sleep(3000)
  const own = world.vms().map((pid) => {
    const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
    const kib = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)
    return (kib('Private_Clean') + kib('Private_Dirty')) / 1024
  })
  if (own.length < clones.length) return
  figures.push({
    what: 'resident memory of an idle clone beyond the shared template, p50',
    reached: quantile(sorted(own), 0.5),
    unit: 'MiB',
    asked: 30,
    better: 'less',
  })
}

async function hundred(world: SandboxWorld): Promise<void> {
  await world.restartAgent({ signal: 'SIGTERM', env: { TUTTI_AHEAD: '0,0' } })
  await (await world.create()).kill()
  const begun = performance.now()
  const made = await Promise.allSettled(
    Array.from({ length: 100 }, async () => {
      const sandbox = await world.create()
      await out(sandbox, ['echo', 'hi'])
      return sandbox
    }),
  )
  const took = performance.now() - begun
  const good = made.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  figures.push({
    what: '100 creates at once, no pool, to the last first output',
    reached: took / 1000,
    unit: 's',
    asked: 12,
    better: 'less',
  })
  await idleMemory(world, good)
  figures.push({ what: 'of them failed', reached: 100 - good.length, unit: '', asked: 0, better: 'less' })
  await Promise.all(good.map((sandbox) => sandbox.kill()))
}

async function out(sandbox: Sandbox, command: string | string[]): Promise<void> {
  const { code, stderr } = await sandbox.exec(command)
  if (code !== 0) throw new Error(`a command in a sandbox ended with code ${code}: ${stderr}`)
}

function add(what: string, times: readonly number[], p50?: number, p99?: number): void {
  const order = sorted(times)
  console.log(`${what}: ${order.map((time) => Math.round(time)).join(' ')}`)
  const better = 'less' as const
  figures.push({
    what: `${what}, p50`,
    reached: quantile(order, 0.5),
    unit: 'ms',
    ...(p50 === undefined ? {} : { asked: p50, better }),
  })
  figures.push({ what: `${what}, p90`, reached: quantile(order, 0.9), unit: 'ms' })
  figures.push({
    what: `${what}, p99`,
    reached: quantile(order, 0.99),
    unit: 'ms',
    ...(p99 === undefined ? {} : { asked: p99, better }),
  })
}
