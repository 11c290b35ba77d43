import { existsSync, readFileSync } from 'node:fs'
import { readdir, readFile, rmdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../../kit/clock.ts'
import type { Stats } from '../../driver.ts'
import { sendSignal } from '../processes.ts'

/** Where the kernel accounts for containers: one tree (version 2), or one per controller (version 1). */
export interface Cgroups {
  version: 1 | 2
  /** Mount points by controller; with version 2 all the same. */
  roots: { memory?: string | undefined; cpu?: string | undefined; pids?: string | undefined }
  all: string[]
}

/** All our containers are under this one. */
export const cgroupParent = '/tutti'

export function findCgroups(mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): Cgroups {
  const mounts = mountinfo.split('\n').flatMap((line) => {
    const [before, after] = line.split(' - ')
    const path = before?.split(' ')[4]
    const [type, , options] = after?.split(' ') ?? []
    return path !== undefined && type?.startsWith('cgroup') ? [{ path, type, options: options?.split(',') ?? [] }] : []
  })
  const old = mounts.filter(({ type }) => type === 'cgroup')
  const at = (controller: string) => old.find(({ options }) => options.includes(controller))?.path
  if (at('memory') !== undefined) {
    const roots = { memory: at('memory'), cpu: at('cpuacct'), pids: at('pids') }
    return { version: 1, roots, all: mounts.map(({ path }) => path) }
  }
  const root = mounts.find(({ type }) => type === 'cgroup2')?.path
  return { version: 2, roots: { memory: root, cpu: root, pids: root }, all: root === undefined ? [] : [root] }
}

/** The file in which the kernel counts what it killed for want of memory. */
export function oomFile({ version, roots }: Cgroups, cgroup: string): string {
  if (roots.memory === undefined) return '/dev/null'
  return join(roots.memory, cgroup, version === 1 ? 'memory.oom_control' : 'memory.events')
}

export async function readStats({ version, roots }: Cgroups, cgroup: string): Promise<Stats> {
  const read = async (root: string | undefined, file: string) =>
    root === undefined ? '' : await readFile(join(root, cgroup, file), 'utf8').catch(() => '')
  const pids = Number.parseInt(await read(roots.pids, 'pids.current'), 10) || 0
  const detail = await read(roots.memory, 'memory.stat')
  // Cached files are given back as soon as anybody needs the memory.
  const cached = field(detail, version === 1 ? 'total_inactive_file' : 'inactive_file')
  const used = await read(roots.memory, version === 1 ? 'memory.usage_in_bytes' : 'memory.current')
  const memory = Math.max(0, (Number.parseInt(used, 10) || 0) - cached)
  const cpuMs =
    version === 1
      ? Number.parseInt(await read(roots.cpu, 'cpuacct.usage'), 10) / 1e6
      : field(await read(roots.cpu, 'cpu.stat'), 'usage_usec') / 1e3
  return { memory, cpuMs: Math.round(cpuMs) || 0, pids }
}

/** Without swap, a limit is a limit. */
export function canLimitSwap({ version, roots }: Cgroups): boolean {
  return version === 2 || (roots.memory !== undefined && existsSync(join(roots.memory, 'memory.memsw.limit_in_bytes')))
}

/** Ends whoever is left in the cgroup and takes it away; for when the runtime no longer knows the container. */
export async function clearCgroup(cgroups: Cgroups, cgroup: string, clock: Clock): Promise<void> {
  for (const root of cgroups.all) {
    const path = join(root, cgroup)
    for (let tries = 0; existsSync(path) && tries < 200; tries++) {
      for (const pid of (await readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => '')).split('\n'))
        if (Number(pid) > 1) sendSignal(Number(pid), 'SIGKILL')
      for (const child of await readdir(path, { withFileTypes: true }).catch(() => []))
        if (child.isDirectory()) await rmdir(join(path, child.name)).catch(() => {})
      await rmdir(path).catch(() => {})
      if (existsSync(path)) await clock.sleep(10)
    }
  }
}

/** Names of cgroups of ours that begin with `prefix`. */
export async function cgroupsOf(cgroups: Cgroups, prefix: string): Promise<Set<string>> {
  const found = new Set<string>()
  for (const root of cgroups.all) {
    for (const name of await readdir(join(root, cgroupParent)).catch(() => []))
      if (name.startsWith(prefix)) found.add(`${cgroupParent}/${name}`)
  }
  return found
}

function field(text: string, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
}
