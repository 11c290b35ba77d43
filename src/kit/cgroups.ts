import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Of one group; 0 means no limit. */
export interface Limits {
  /** Bytes. */
  memory: number
  /** CPU as a share of one core. Guaranteed, not a ceiling. */
  cores: number
  /** Most processes and threads. */
  pids: number
}

/**
 * Control groups of tasks and VMs, under `tutti/` beside whatever else uses them. What works is found by trying: names in
 * /proc promise more than a container or an old system keeps. Each has a group of its own, so that its processes can
 * be counted, limited and ended together, whatever they did to their parents, groups and sessions.
 */
export interface Cgroups {
  version: 'v1' | 'v2' | 'none'
  /** Why limits are not enforced; undefined when they are. */
  lacking: string | undefined
  /** Makes the group; returns the files that a process enters it by writing `0`. */
  make(name: string, limits: Limits): string[]
  /** The files of `make`, for a group that exists. */
  doors(name: string): string[]
  /** Ends all processes in it, with one SIGKILL each; those that start meanwhile need another call. */
  kill(name: string): void
  processes(name: string): number[]
  /** Processes that the kernel ended because the group had no memory left. */
  outOfMemoryKills(name: string): number
  usage(name: string): { memory: number; cpuMs: number; pids: number } | undefined
  /** Groups whose name begins so. */
  list(prefix: string): string[]
  /** Only an empty group can be removed; tells whether it is gone. */
  remove(name: string): boolean
}

export const noCgroups = (lacking: string): Cgroups => ({
  version: 'none',
  lacking,
  make: () => [],
  doors: () => [],
  kill: () => {},
  processes: () => [],
  outOfMemoryKills: () => 0,
  usage: () => undefined,
  list: () => [],
  remove: () => true,
})

export function findCgroups(root = '/sys/fs/cgroup'): Cgroups {
  if (process.platform !== 'linux') return noCgroups('this system has no control groups')
  return (
    findV2(root) ?? findV1(root) ?? noCgroups('control groups cannot be made here; it takes root, or a delegated one')
  )
}

const controllers = ['memory', 'cpu', 'pids'] as const
const trees = ['memory', 'cpu', 'cpuacct', 'pids'] as const

/** The root, or with delegation (systemd: `Delegate=yes`) the group of the agent's service. */
function findV2(root: string): Cgroups | undefined {
  if (!controllers.every((name) => words(join(root, 'cgroup.controllers')).includes(name))) return undefined
  const own = read('/proc/self/cgroup').match(/^0::(\/.*)$/m)?.[1] ?? '/'
  for (const base of [root, join(root, own, '..'), join(root, own)]) {
    if (!base.startsWith(root)) continue
    const directory = join(base, 'tutti')
    if (!attempt(() => mkdirSync(directory, { recursive: true }))) continue
    for (const parent of [base, directory]) {
      attempt(() =>
        writeFileSync(join(parent, 'cgroup.subtree_control'), controllers.map((name) => `+${name}`).join(' ')),
      )
    }
    const groups = new CgroupsV2(directory)
    if (tryOut(groups, (trial) => existsSync(join(directory, trial, 'memory.max')))) return groups
  }
  return undefined
}

function findV1(root: string): Cgroups | undefined {
  // Elsewhere directories could be made as well, and would limit nothing.
  if (!trees.every((tree) => existsSync(join(root, tree, 'cgroup.procs')))) return undefined
  const groups = new CgroupsV1(root)
  const limited = (trial: string) => existsSync(join(root, 'memory/tutti', trial, 'memory.limit_in_bytes'))
  return tryOut(groups, limited) ? groups : undefined
}

function tryOut(groups: Cgroups, check: (trial: string) => boolean): boolean {
  const trial = `trial-${process.pid}`
  const made = attempt(() => groups.make(trial, { memory: 2 ** 26, cores: 1, pids: 10 }))
  const works = made && check(trial)
  groups.remove(trial)
  return works
}

/** https://docs.kernel.org/admin-guide/cgroup-v2.html */
export class CgroupsV2 implements Cgroups {
  readonly version = 'v2'
  readonly lacking = undefined
  readonly #base: string

  constructor(base: string) {
    this.#base = base
  }

  make(name: string, limits: Limits): string[] {
    const group = join(this.#base, name)
    mkdirSync(group, { recursive: true })
    if (limits.memory > 0) {
      write(group, 'memory.max', limits.memory)
      attempt(() => write(group, 'memory.swap.max', 0))
    }
    write(group, 'cpu.weight', clamp(Math.round(shareOf(limits) * 100), 1, 10_000))
    if (limits.pids > 0) write(group, 'pids.max', limits.pids)
    return this.doors(name)
  }

  doors(name: string): string[] {
    return [join(this.#base, name, 'cgroup.procs')]
  }

  kill(name: string): void {
    if (attempt(() => write(join(this.#base, name), 'cgroup.kill', 1))) return
    for (const pid of this.processes(name)) killProcess(pid)
  }

  processes(name: string): number[] {
    return treeOf(join(this.#base, name)).flatMap(processNumbers)
  }

  outOfMemoryKills(name: string): number {
    return Number(/^oom_kill (\d+)/m.exec(read(join(this.#base, name, 'memory.events')))?.[1] ?? 0)
  }

  usage(name: string) {
    const group = join(this.#base, name)
    const memory = numbers(join(group, 'memory.current'))[0]
    if (memory === undefined) return undefined
    const micros = Number(/^usage_usec (\d+)/m.exec(read(join(group, 'cpu.stat')))?.[1] ?? 0)
    return { memory, cpuMs: Math.round(micros / 1000), pids: numbers(join(group, 'pids.current'))[0] ?? 0 }
  }

  list(prefix: string): string[] {
    return directories(this.#base).filter((name) => name.startsWith(prefix))
  }

  remove(name: string): boolean {
    return removeTree(join(this.#base, name))
  }
}

/** https://docs.kernel.org/admin-guide/cgroup-v1/index.html: one tree per controller, also beside an empty v2 tree. */
export class CgroupsV1 implements Cgroups {
  readonly version = 'v1'
  readonly lacking = undefined
  readonly #root: string

  constructor(root: string) {
    this.#root = root
  }

  make(name: string, limits: Limits): string[] {
    for (const tree of trees) mkdirSync(this.#group(tree, name), { recursive: true })
    if (limits.memory > 0) {
      const memory = this.#group('memory', name)
      write(memory, 'memory.limit_in_bytes', limits.memory)
      attempt(() => write(memory, 'memory.memsw.limit_in_bytes', limits.memory))
    }
    write(this.#group('cpu', name), 'cpu.shares', clamp(Math.round(shareOf(limits) * 1024), 2, 262_144))
    if (limits.pids > 0) write(this.#group('pids', name), 'pids.max', limits.pids)
    return this.doors(name)
  }

  doors(name: string): string[] {
    return trees.map((tree) => join(this.#group(tree, name), 'cgroup.procs'))
  }

  kill(name: string): void {
    for (const pid of this.processes(name)) killProcess(pid)
  }

  processes(name: string): number[] {
    const groups = (['memory', 'pids'] as const).flatMap((tree) => treeOf(this.#group(tree, name)))
    return [...new Set(groups.flatMap(processNumbers))]
  }

  outOfMemoryKills(name: string): number {
    return treeOf(this.#group('memory', name))
      .map((group) => Number(/^oom_kill (\d+)/m.exec(read(join(group, 'memory.oom_control')))?.[1] ?? 0))
      .reduce((sum, kills) => sum + kills, 0)
  }

  usage(name: string) {
    const memory = numbers(join(this.#group('memory', name), 'memory.usage_in_bytes'))[0]
    if (memory === undefined) return undefined
    const nanos = numbers(join(this.#group('cpuacct', name), 'cpuacct.usage'))[0] ?? 0
    const pids = numbers(join(this.#group('pids', name), 'pids.current'))[0] ?? 0
    return { memory, cpuMs: Math.round(nanos / 1e6), pids }
  }

  list(prefix: string): string[] {
    const names = trees.flatMap((tree) => directories(join(this.#root, tree, 'tutti')))
    return [...new Set(names)].filter((name) => name.startsWith(prefix))
  }

  remove(name: string): boolean {
    return trees.map((tree) => removeTree(this.#group(tree, name))).every((gone) => gone)
  }

  #group(tree: string, name: string): string {
    return join(this.#root, tree, 'tutti', name)
  }
}

/** In cores. Who reserved nothing gets little when it is tight, and all that is free otherwise. */
function shareOf({ cores }: Limits): number {
  return cores > 0 ? cores : 0.1
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value))
}

function write(group: string, file: string, value: number): void {
  writeFileSync(join(group, file), String(value))
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function words(path: string): string[] {
  return read(path).trim().split(/\s+/)
}

function numbers(path: string): number[] {
  return words(path)
    .filter((word) => word !== '')
    .map(Number)
}

/** A process of another namespace is shown as 0, which to kill means ourselves. */
function processNumbers(group: string): number[] {
  return numbers(join(group, 'cgroup.procs')).filter((pid) => pid > 0)
}

/** A task that may make groups of its own has a tree of them; parents first. */
function treeOf(group: string): string[] {
  return [group, ...directories(group).flatMap((name) => treeOf(join(group, name)))]
}

function directories(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return []
  }
}

function removeTree(group: string): boolean {
  for (const directory of treeOf(group).reverse()) attempt(() => rmdirSync(directory))
  return !existsSync(group)
}

export function killProcess(pid: number, signal: NodeJS.Signals = 'SIGKILL'): boolean {
  return attempt(() => process.kill(pid, signal))
}

function attempt(action: () => unknown): boolean {
  try {
    action()
    return true
  } catch {
    return false
  }
}
