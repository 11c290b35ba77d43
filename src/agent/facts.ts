import { readFile, statfs } from 'node:fs/promises'
import * as os from 'node:os'
import type { Driver } from '../drivers/driver.ts'
import { type Clock, deadline } from '../kit/clock.ts'
import { sentence } from '../model/fault.ts'
import type { DriverFacts, NodeFacts } from '../model/node.ts'

export interface FactsOptions {
  clock: Clock
  /** The agent's own directory: its disk is what workloads get. */
  root: string
  /** And what else has facts of the same kind. */
  drivers: readonly Pick<Driver, 'name' | 'facts'>[]
  /** Version of Tutti. */
  version: string
  address?: string | undefined
  counters?: Record<string, number>
  /** Names of the volumes that the owner offers. */
  volumes?: readonly string[]
  attributes?: Record<string, string>
  labels?: Record<string, string>
  ports?: [number, number]
  /** What the owner says instead of what was found; bytes and cores. */
  cores?: number | undefined
  memory?: number | undefined
  /** Bytes kept for the system and the agent; by default a tenth, at least 256 MiB and at most 2 GiB. */
  reserveMemory?: number | undefined
  disk?: number | undefined
}

/** Reads what this machine is. What the system says may change, so it is asked anew each time; what fails is left out. */
export async function machineFacts(options: FactsOptions): Promise<NodeFacts> {
  const limits = await cgroupLimits()
  const total = Math.min(os.totalmem() - (await setAside()), limits.memory)
  const reserve = options.reserveMemory ?? Math.min(2 ** 31, Math.max(2 ** 28, total / 10))
  const drivers: Record<string, DriverFacts> = {}
  await Promise.all(
    options.drivers.map(async (driver) => {
      drivers[driver.name] = await driverFacts(driver, options.clock)
    }),
  )
  return {
    os: process.platform === 'darwin' ? 'macos' : 'linux',
    arch: process.arch === 'arm64' ? 'arm64' : 'amd64',
    hostname: os.hostname(),
    version: options.version,
    cores: options.cores ?? Math.max(1, Math.floor(Math.min(os.availableParallelism(), limits.cores))),
    coreMHz: coreMHz(),
    memory: Math.max(0, Math.floor(options.memory ?? total - reserve)),
    disk: options.disk ?? (await freeDisk(options.root)),
    drivers: Object.fromEntries(Object.entries(drivers).sort(([one], [other]) => (one < other ? -1 : 1))),
    attributes: { kernel: os.release(), ...options.attributes },
    labels: options.labels ?? {},
    counters: options.counters ?? {},
    volumes: [...(options.volumes ?? [])],
    address: options.address ?? firstAddress(),
    ports: options.ports ?? [20_000, 32_000],
  }
}

/** A driver's tools may hang; a node without one driver is better than none. */
const driverPatienceMs = 10_000

async function driverFacts(driver: Pick<Driver, 'facts'>, clock: Clock): Promise<DriverFacts> {
  using patience = deadline(clock, driverPatienceMs)
  const late = new Promise<never>((_, reject) => {
    patience.signal.addEventListener('abort', () =>
      reject(new Error(`it did not say within ${driverPatienceMs / 1000} s whether it works here`)),
    )
  })
  try {
    return await Promise.race([driver.facts(), late])
  } catch (error) {
    return { healthy: false, reason: sentence(error).slice(0, 1000), attributes: {} }
  }
}

/** A clock speed that changes with every look would be said again each time; what is not known counts as 1 GHz. */
function coreMHz(): number {
  knownMHz ??= Math.max(0, ...os.cpus().map(({ speed }) => speed)) || (process.arch === 'arm64' ? 3000 : 1000)
  return knownMHz
}
let knownMHz: number | undefined

/** Rounded down to a gibibyte, so that ordinary writing is not news every half minute. */
async function freeDisk(root: string): Promise<number> {
  try {
    const { bavail, bsize } = await statfs(root)
    const free = bavail * bsize
    return free < 2 ** 30 ? free - (free % 2 ** 24) : free - (free % 2 ** 30)
  } catch {
    return 0
  }
}

function firstAddress(): string {
  for (const addresses of Object.values(os.networkInterfaces())) {
    for (const { family, internal, address } of addresses ?? []) if (family === 'IPv4' && !internal) return address
  }
  return '127.0.0.1'
}

/** What a container or unit that the agent itself runs in allows: the tightest on the way up. */
async function cgroupLimits(): Promise<{ memory: number; cores: number }> {
  const limits = { memory: Number.POSITIVE_INFINITY, cores: Number.POSITIVE_INFINITY }
  if (process.platform !== 'linux') return limits
  const own = await readText('/proc/self/cgroup')
  const path = /^0::(\/.*)$/m.exec(own)?.[1] ?? '/'
  const parts = path.split('/').filter((part) => part !== '')
  for (let depth = parts.length; depth >= 0; depth--) {
    const at = ['/sys/fs/cgroup', ...parts.slice(0, depth)].join('/')
    const memory = Number.parseInt(await readText(`${at}/memory.max`), 10)
    if (Number.isFinite(memory)) limits.memory = Math.min(limits.memory, memory)
    const [quota, period] = (await readText(`${at}/cpu.max`)).split(' ').map(Number)
    if (quota && period && Number.isFinite(quota)) limits.cores = Math.min(limits.cores, quota / period)
  }
  const old = Number.parseInt(await readText('/sys/fs/cgroup/memory/memory.limit_in_bytes'), 10)
  if (Number.isFinite(old)) limits.memory = Math.min(limits.memory, old)
  const quota = Number.parseInt(await readText('/sys/fs/cgroup/cpu/cpu.cfs_quota_us'), 10)
  const period = Number.parseInt(await readText('/sys/fs/cgroup/cpu/cpu.cfs_period_us'), 10)
  if (quota > 0 && period > 0) limits.cores = Math.min(limits.cores, quota / period)
  return limits
}

/** Bytes of huge pages, free or not: nothing that asks for ordinary memory gets them. */
async function setAside(): Promise<number> {
  const [, kib = '0'] = /^Hugetlb:\s+(\d+) kB$/m.exec(await readText('/proc/meminfo')) ?? []
  return Number(kib) * 1024
}

async function readText(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '')
}
