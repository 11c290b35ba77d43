import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ContainerDriver } from '../src/drivers/container/container.ts'
import { EngineClient } from '../src/drivers/container/engine/client.ts'
import type { TaskPlan } from '../src/drivers/driver.ts'
import { systemClock } from '../src/kit/system-clock.ts'
import { TaskSpec } from '../src/model/job.ts'
import { startPodman } from '../test/fixtures/podman.ts'
import { lacking, startRegistry } from '../test/fixtures/registry.ts'

/**
 * How long a container takes from a cached image to running: through the driver, and by the same runtime called by hand
 * (mount, `create`, `start`) on the same bundle, in turns, so that both meet the same machine.
 */

const execute = promisify(execFile)
const rounds = Number(process.argv[2] ?? 40)
const { signal } = new AbortController()
const skip = lacking(['podman'])

if (skip === undefined) await main()
else console.log(`nothing measured: ${skip}`)

async function main(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'tutti-bench-'))
  await using registry = await startRegistry()
  await using podman = await startPodman()
  try {
    const image = await registry.push('bench/idle:1', { command: ['sleep', '1000'] })
    const plain = await measurePlain(join(directory, 'plain'), image)
    const engine = await measureEngine(join(directory, 'engine'), image, podman.host)
    const rows = {
      'plain, driver': plain.driver,
      'plain, by hand': plain.hand,
      'engine, driver': engine.driver,
      'engine, by hand': engine.hand,
    }
    console.table(Object.fromEntries(Object.entries(rows).map(([name, times]) => [name, summary(times)])))
    const figures = [
      ['plain', plain],
      ['podman', engine],
    ] as const
    console.log(
      JSON.stringify({
        bench: 'container',
        rounds,
        ...Object.fromEntries(
          figures.map(([name, { driver, hand }]) => [
            name,
            {
              driver: summary(driver),
              hand: summary(hand),
              ratioP50: round(percentile(driver, 50) / percentile(hand, 50)),
            },
          ]),
        ),
      }),
    )
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

interface Times {
  driver: number[]
  hand: number[]
}

async function measurePlain(directory: string, image: string): Promise<Times> {
  const driver = new ContainerDriver({ directory: join(directory, 'driver'), clock: systemClock, runtime: 'runc' })
  const times: Times = { driver: [], hand: [] }
  const root = join(directory, 'runc')
  for (let at = -2; at < rounds; at++) {
    const plan = await planFor(directory, image, at + 2)
    await driver.prepare(plan, { signal, progress: () => {} })
    const took = await timed(() => driver.start(plan, { signal }))
    // The same bundle, with directories of its own.
    const bundle = join(directory, `hand-${at + 2}`)
    for (const part of ['rootfs', 'upper', 'work']) await mkdir(join(bundle, part), { recursive: true })
    const id = `hand-${process.pid}-${at + 2}`
    const config = JSON.parse(await readFile(join(plan.stateDirectory, 'container-1/config.json'), 'utf8'))
    config.root.path = join(bundle, 'rootfs')
    config.linux.cgroupsPath = `/tutti/${id}`
    await writeFile(join(bundle, 'config.json'), JSON.stringify(config))
    const lower = await lowerOf(plan)
    const script =
      'mount -t overlay o -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/rootfs" && runc --root "$3" create --bundle "$1" "$4" </dev/null >/dev/null 2>&1 && runc --root "$3" start "$4"'
    const byHand = await timed(() => execute('sh', ['-c', script, 'sh', bundle, lower, root, id]))
    await execute('runc', ['--root', root, 'delete', '--force', id])
    await execute('umount', [join(bundle, 'rootfs')])
    await driver.remove(plan)
    if (at >= 0) times.driver.push(took)
    if (at >= 0) times.hand.push(byHand)
  }
  return times
}

/** Where the driver's own mount has its files from. */
async function lowerOf(plan: TaskPlan): Promise<string> {
  const pid = (await readFile(join(plan.stateDirectory, 'container-1/pid'), 'utf8')).trim()
  const mounts = await readFile(`/proc/${pid}/mountinfo`, 'utf8')
  return /lowerdir=([^,]+)/.exec(mounts)?.[1] ?? ''
}

async function measureEngine(directory: string, image: string, host: string): Promise<Times> {
  const options = { runtime: 'podman', dockerHost: host } as const
  const driver = new ContainerDriver({ directory: join(directory, 'driver'), clock: systemClock, ...options })
  const { client } = await EngineClient.connect(host)
  const times: Times = { driver: [], hand: [] }
  for (let at = -2; at < rounds; at++) {
    const plan = await planFor(directory, image, at + 2)
    await driver.prepare(plan, { signal, progress: () => {} })
    const took = await timed(() => driver.start(plan, { signal }))
    await driver.remove(plan)
    const name = `hand-${at + 2}`
    const byHand = await timed(async () => {
      const HostConfig = { NetworkMode: 'host', LogConfig: { Type: 'k8s-file', Config: {} } }
      await client.call('POST', `/containers/create?name=${name}`, { body: { Image: image, HostConfig } })
      await client.call('POST', `/containers/${name}/start`)
    })
    await client.call('DELETE', `/containers/${name}?force=1`)
    if (at >= 0) times.driver.push(took)
    if (at >= 0) times.hand.push(byHand)
  }
  client.close()
  return times
}

async function planFor(directory: string, image: string, number: number): Promise<TaskPlan> {
  const at = (name: string) => join(directory, String(number), name)
  for (const part of ['task', 'state']) await mkdir(at(part), { recursive: true })
  const id = `bench-${process.pid}-${number}`
  return {
    ...{ id, job: 'bench', allocation: id, task: 'main', attempt: 1, env: {}, ports: {}, mounts: [] },
    spec: TaskSpec.parse({ driver: 'container', image }),
    directory: at('task'),
    stateDirectory: at('state'),
    limits: { memory: 0, cores: 0, pids: 0 },
    output: { stdout: at('stdout'), stderr: at('stderr') },
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const before = performance.now()
  await work()
  return performance.now() - before
}

function summary(times: readonly number[]) {
  return { p50: round(percentile(times, 50)), p99: round(percentile(times, 99)), max: round(Math.max(...times)) }
}

function percentile(times: readonly number[], percent: number): number {
  const sorted = times.toSorted((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] ?? Number.NaN
}

function round(value: number): number {
  return Math.round(value * 100) / 100
}
