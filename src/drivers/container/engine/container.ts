import { z } from 'zod'
import type { TaskPlan } from '../../driver.ts'
import { settingsOf, taskDirectory } from '../settings.ts'

/** What the engine is asked to create for an attempt, and what it says of it. */

export function containerName({ id, attempt }: Pick<TaskPlan, 'id' | 'attempt'>): string {
  return `tutti-${id}.${attempt}`
}

export const taskLabel = 'tutti.task'

export interface CreateOptions {
  plan: TaskPlan
  imageId: string
  workingDirectory: string
  hostname: string
  engine: 'docker' | 'podman'
}

export function createBody({ plan, imageId, workingDirectory, hostname, engine }: CreateOptions): object {
  const { spec, limits } = plan
  const settings = settingsOf(plan)
  const command = typeof spec.command === 'string' ? [spec.command] : spec.command
  const ports = spec.network === 'bridge' ? Object.values(plan.ports) : []
  const published = ports.flatMap(({ host, to }) =>
    ['tcp', 'udp'].map((protocol) => [`${to}/${protocol}`, [{ HostPort: String(host) }]] as const),
  )
  return {
    Image: imageId,
    // An entrypoint of our own also takes away the image's command.
    ...(command ? { Entrypoint: command } : {}),
    ...(spec.args.length > 0 ? { Cmd: spec.args } : {}),
    Env: Object.entries({ ...plan.env, TUTTI_TASK_DIR: taskDirectory }).map(([name, value]) => `${name}=${value}`),
    WorkingDir: workingDirectory,
    ...(spec.user === undefined ? {} : { User: spec.user }),
    // With the host's network comes the host's name.
    ...(spec.network === 'host' ? {} : { Hostname: settings.hostname ?? hostname }),
    Labels: {
      [taskLabel]: plan.id,
      'tutti.attempt': String(plan.attempt),
      'tutti.job': plan.job,
      'tutti.allocation': plan.allocation,
    },
    ExposedPorts: Object.fromEntries(published.map(([port]) => [port, {}])),
    HostConfig: {
      NetworkMode: spec.network,
      PortBindings: Object.fromEntries(published),
      Mounts: [
        { Type: 'bind', Source: plan.directory, Target: taskDirectory, ReadOnly: false },
        ...plan.mounts.map(({ source, target, readOnly }) => ({
          ...{ Type: 'bind', Source: source, Target: target, ReadOnly: readOnly },
        })),
      ],
      // Without swap, a limit is a limit.
      ...(limits.memory > 0 ? { Memory: limits.memory, MemorySwap: limits.memory } : {}),
      ...(limits.cores > 0 ? { CpuShares: Math.min(262_144, Math.max(2, Math.round(limits.cores * 1024))) } : {}),
      ...(limits.pids > 0 ? { PidsLimit: limits.pids } : {}),
      ...(settings.init ? { Init: true } : {}),
      ReadonlyRootfs: settings.readOnlyRoot,
      ...(settings.readOnlyRoot ? { Tmpfs: { '/tmp': 'mode=1777', '/run': 'mode=755' } } : {}),
      CapDrop: settings.dropCapabilities,
      SecurityOpt: settings.noNewPrivileges ? ['no-new-privileges'] : [],
      RestartPolicy: { Name: 'no' },
      // Kept by the engine only until we have copied it; a limit, lest a task that nobody follows fills the disk.
      LogConfig:
        engine === 'docker'
          ? { Type: 'json-file', Config: { 'max-size': '64m', 'max-file': '2' } }
          : { Type: 'k8s-file', Config: {} },
    },
  }
}

/** Of the answer to "inspect". */
export const ContainerState = z.object({
  Id: z.string().regex(/^[0-9a-f]{12,64}$/),
  State: z.object({
    Status: z.string().max(50),
    Running: z.boolean(),
    OOMKilled: z.boolean().default(false),
    Pid: z.int().nonnegative().default(0),
    ExitCode: z.int(),
    StartedAt: z.string().max(100),
    Error: z.string().default(''),
  }),
})
export type ContainerState = z.infer<typeof ContainerState>

/** Created, and never started or not yet. */
export function isUnborn({ State }: ContainerState): boolean {
  return State.Status === 'created' || State.Status === 'configured' || State.Status === 'initialized'
}
