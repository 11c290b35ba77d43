import { existsSync, readFileSync } from 'node:fs'
import type { Image } from '../../../images/store.ts'
import { Fault } from '../../../model/fault.ts'
import type { TaskPlan } from '../../driver.ts'
import { argumentsOf, environmentOf, settingsOf, taskDirectory, workingDirectoryOf } from '../settings.ts'
import { seccompProfile } from './seccomp.ts'
import { findUser } from './users.ts'

/** What the process of a container, first or later, is given (OCI runtime specification, "process"). */
export interface ProcessConfig {
  terminal: boolean
  user: { uid: number; gid: number; additionalGids: number[] }
  args: string[]
  env: string[]
  cwd: string
  capabilities: Record<string, string[]>
  rlimits: { type: string; hard: number; soft: number }[]
  noNewPrivileges: boolean
}

export interface BundleOptions {
  plan: TaskPlan
  image: Image
  /** Where the root directory will be mounted. */
  rootfs: string
  cgroup: string
  /** Files of ours that the container sees under the given paths. */
  files: Readonly<Record<string, string>>
  hostname: string
  architecture: string
  seccomp: boolean
  limitSwap: boolean
}

/** config.json: the whole of what the runtime is told about one container. */
export function bundleConfig(options: BundleOptions): { process: ProcessConfig } {
  const { plan, image, rootfs, cgroup, hostname } = options
  const settings = settingsOf(plan)
  if (plan.spec.network === 'bridge')
    throw new Fault(
      'invalid',
      `task "${plan.task}" asks for network "bridge", which needs Docker or Podman on the node; use "host" or "none", ` +
        'or a constraint on attr.container.networks',
    )
  const alone = plan.spec.network === 'none'
  return {
    ...{ ociVersion: '1.0.2', hostname, root: { path: rootfs, readonly: settings.readOnlyRoot } },
    process: processConfig(plan, image),
    ...{ mounts: mounts(options, settings.readOnlyRoot) },
    ...{
      linux: {
        cgroupsPath: cgroup,
        resources: resources(options),
        namespaces: ['pid', 'ipc', 'uts', 'mount', ...(alone ? ['network'] : [])].map((type) => ({ type })),
        rootfsPropagation: 'rslave',
        maskedPaths,
        readonlyPaths,
        ...(options.seccomp ? { seccomp: seccompProfile(options.architecture) } : {}),
      },
    },
  }
}

export function processConfig(plan: TaskPlan, image: Image): ProcessConfig {
  const settings = settingsOf(plan)
  const { home, ...user } = findUser(plan.spec.user ?? image.user, image.rootfs)
  const env = { HOME: home, ...environmentOf(plan, image.env) }
  return {
    terminal: false,
    user,
    args: [...(settings.init ? [initInside, '--'] : []), ...argumentsOf(plan, image)],
    env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
    cwd: workingDirectoryOf(plan, image.workingDirectory),
    capabilities: capabilitiesFor(user.uid, settings.dropCapabilities),
    rlimits: rlimits(),
    noNewPrivileges: settings.noNewPrivileges,
  }
}

/** Docker's default set, less what the task gives up and what we do not have ourselves. */
export function capabilitiesFor(uid: number, drop: readonly string[]): Record<string, string[]> {
  const dropped = new Set(drop.map((name) => (name.startsWith('CAP_') ? name : `CAP_${name}`)))
  const ours = BigInt(`0x${/^CapBnd:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0'}`)
  const kept = dropped.has('CAP_ALL')
    ? []
    : Object.entries(defaultCapabilities)
        .filter(([name, bit]) => !dropped.has(name) && (ours >> BigInt(bit)) & 1n)
        .map(([name]) => name)
  const active = uid === 0 ? kept : []
  return { bounding: kept, effective: active, permitted: active, inheritable: [], ambient: [] }
}

const defaultCapabilities: Readonly<Record<string, number>> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_NET_RAW: 13,
  CAP_SYS_CHROOT: 18,
  CAP_MKNOD: 27,
  CAP_AUDIT_WRITE: 29,
  CAP_SETFCAP: 31,
}

/** As many open files as we may have ourselves: raising a hard limit takes a right that an agent may lack. */
function rlimits(): ProcessConfig['rlimits'] {
  const hard = Number(/^Max open files\s+\S+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1])
  const most = Math.min(hard || 1024, 1_048_576)
  return [{ type: 'RLIMIT_NOFILE', hard: most, soft: most }]
}

function resources({ plan, limitSwap }: BundleOptions): object {
  const { memory, cores, pids } = plan.limits
  return {
    devices: [{ allow: false, access: 'rwm' }],
    ...(memory > 0 ? { memory: { limit: memory, ...(limitSwap ? { swap: memory } : {}) } } : {}),
    ...(cores > 0 ? { cpu: { shares: Math.min(262_144, Math.max(2, Math.round(cores * 1024))) } } : {}),
    ...(pids > 0 ? { pids: { limit: pids } } : {}),
  }
}

function mounts({ plan, files }: BundleOptions, readOnlyRoot: boolean): object[] {
  const bind = (source: string, destination: string, options: string[]) => ({
    destination,
    type: 'bind',
    source,
    options,
  })
  return [
    ...systemMounts,
    // A root that cannot be written to still leaves programs a place for their scratch files.
    ...(readOnlyRoot ? [tmpfs('/tmp', ['mode=1777']), tmpfs('/run', ['mode=755'])] : []),
    ...(settingsOf(plan).init ? [bind(findInit(), initInside, ['bind', 'rprivate', 'ro'])] : []),
    ...Object.entries(files).map(([target, source]) => bind(source, target, ['bind', 'rprivate', 'rw'])),
    bind(plan.directory, taskDirectory, ['rbind', 'rprivate', 'rw', 'nodev']),
    // Read-only holds for one file system, so those mounted below the source are left out rather than left writable.
    ...plan.mounts.map(({ source, target, readOnly }) =>
      bind(source, target, readOnly ? ['bind', 'rprivate', 'ro'] : ['rbind', 'rprivate', 'rw']),
    ),
  ]
}

/** In /dev, which is no part of the image's files. */
const initInside = '/dev/init'

/** Any of the small static ones that machines with containers have. */
function findInit(): string {
  const found = inits.find((path) => existsSync(path))
  if (found !== undefined) return found
  throw new Fault('unavailable', 'the task wants an init, and this node has none; apt-get install tini')
}

const inits = [
  '/usr/bin/tini-static',
  '/sbin/tini-static',
  '/usr/bin/docker-init',
  '/usr/libexec/docker/docker-init',
  '/usr/bin/catatonit',
  '/usr/libexec/podman/catatonit',
  '/usr/libexec/catatonit/catatonit',
]

function tmpfs(destination: string, options: string[]): object {
  return { destination, type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'nodev', ...options] }
}

const systemMounts: readonly object[] = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  tmpfs('/dev/shm', ['noexec', 'mode=1777', 'size=65536k']),
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
]

/** Parts of /proc and /sys that tell of the machine or steer it. */
const maskedPaths = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/sys/firmware',
]
const readonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']
