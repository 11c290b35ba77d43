import { z } from 'zod'
import { Constraint } from './constraint.ts'
import { Name } from './ids.ts'
import { Duration, MiB, Size } from './units.ts'

/**
 * What a user wants. Written by people in YAML, JSON or TypeScript; parsed once at the edge into the canonical form,
 * where sizes are bytes, durations milliseconds and every default is filled in. Parsing the canonical form again gives
 * the same value.
 */

const minutes = (count: number) => count * 60_000

const Text = z.string().max(4096)
const EnvName = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,254}$/, 'must be letters, digits and underscores')
const AbsolutePath = z.string().max(1024).startsWith('/', 'must be an absolute path')
/** A path inside the task's directory. */
const RelativePath = z
  .string()
  .min(1)
  .max(1024)
  .refine(
    (path) => !path.startsWith('/') && !path.split('/').includes('..'),
    'must be a path inside the task directory',
  )

const bareNumber = 'a bare number is milliseconds, write "10s" for seconds'
/** A waiting time is none at all or at least this long: a bare `10` meant as seconds is caught here. */
const Pause = Duration.refine((ms) => ms === 0 || ms >= 100, `is under 100ms; ${bareNumber}`)
/** The same for what makes no sense without any time. */
const Period = Duration.refine((ms) => ms >= 100, `must be at least 100ms; ${bareNumber}`)

export const Resources = z
  .strictObject({
    cpu: z
      .union([
        z.number().nonnegative(),
        z.string().transform((text, context) => {
          const match = /^(\d+(?:\.\d+)?)\s*(MHz|GHz)$/.exec(text.trim())
          if (match && Number(match[1]) < 1e9) return Number(match[1]) * (match[2] === 'GHz' ? 1000 : 1)
          context.addIssue({
            code: 'custom',
            message: `"${text}" is not a CPU speed; write "500MHz", or use "cores: 2"`,
          })
          return z.NEVER
        }),
      ])
      .default(0)
      .meta({ description: 'MHz of CPU reserved. Use this or `cores`.' }),
    cores: z
      .number()
      .nonnegative()
      .max(4096)
      .default(0)
      .meta({ description: 'Cores reserved; fractions are allowed. Use this or `cpu`.' }),
    memory: Size.refine(
      (bytes) => bytes === 0 || bytes >= MiB,
      'is under 1 MiB; a bare number is bytes, write "256MiB"',
    )
      .default(64 * MiB)
      .meta({ description: 'Memory reserved, and the hard limit where the driver can enforce one.' }),
    disk: Size.default(0).meta({ description: 'Disk reserved for the task directory.' }),
    pids: z.int().positive().max(1_000_000).optional().meta({ description: 'Most processes and threads at once.' }),
    counters: z
      .record(Name, z.int().nonnegative())
      .default({})
      .meta({ description: 'Named things that a node has a number of, such as `tart-vms: 1`.' }),
  })
  .refine((ask) => ask.cpu === 0 || ask.cores === 0, { message: 'give either cpu or cores, not both', path: ['cores'] })
export type Resources = z.infer<typeof Resources>

export const Artifact = z.strictObject({
  url: z
    .string()
    .max(4096)
    .regex(/^(https?|file):\/\//, 'must be an http, https or file URL'),
  checksum: z
    .string()
    .regex(/^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/, 'must be "sha256:" and 64 hex digits, or "sha512:" and 128')
    .optional(),
  to: RelativePath.default('local').meta({ description: 'Directory inside the task directory.' }),
  name: RelativePath.optional().meta({
    description: 'File name to store a plain file under; by default the last part of the URL.',
  }),
  unpack: z
    .enum(['auto', 'none', 'tar', 'tar.gz', 'tar.zst', 'zip', 'gz', 'zst'])
    .default('auto')
    .meta({ description: '`auto` goes by the ending of the URL.' }),
  mode: z
    .string()
    .regex(/^0?[0-7]{3}$/, 'must be an octal mode such as "0755"')
    .optional(),
  headers: z.record(z.string().max(200), Text).default({}),
})
export type Artifact = z.infer<typeof Artifact>

export const Template = z
  .strictObject({
    content: z.string().max(262_144).optional().meta({ description: 'The text, with ${…} references.' }),
    source: RelativePath.optional().meta({
      description: 'A file of the task directory to read the text from, such as one an artifact brought.',
    }),
    to: RelativePath.meta({ description: 'File inside the task directory.' }),
    env: z
      .boolean()
      .default(false)
      .meta({ description: 'Also read the result as KEY=value lines into the environment.' }),
    mode: z
      .string()
      .regex(/^0?[0-7]{3}$/, 'must be an octal mode such as "0644"')
      .default('0644'),
  })
  .refine((template) => (template.content === undefined) !== (template.source === undefined), {
    message: 'give either content or source',
    path: ['content'],
  })
export type Template = z.infer<typeof Template>

const checkCommon = {
  interval: Period.default(5000),
  timeout: Period.default(3000),
  failures: z
    .int()
    .positive()
    .max(100)
    .default(3)
    .meta({ description: 'Failures in a row that make the task unhealthy.' }),
  grace: Pause.default(10_000).meta({ description: 'Failures this soon after the start do not count.' }),
  restart: z
    .boolean()
    .default(true)
    .meta({ description: 'Restart the task when it becomes unhealthy, under its restart policy.' }),
}

export const Check = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('http'),
    port: Name,
    path: z.string().startsWith('/').max(1024).default('/'),
    ...checkCommon,
  }),
  z.strictObject({ type: z.literal('tcp'), port: Name, ...checkCommon }),
  z.strictObject({ type: z.literal('script'), command: z.array(Text).min(1).max(256), ...checkCommon }),
])
export type Check = z.infer<typeof Check>

export const Mount = z
  .strictObject({
    volume: Name.optional().meta({ description: 'A named volume: of this job, or one that the node offers.' }),
    host: AbsolutePath.optional().meta({
      description: 'A path of the node; it must be under one that its agent allows.',
    }),
    to: AbsolutePath.optional().meta({
      description: 'Where a container sees it. A process sees the files of the node, a volume under ${volume.NAME}.',
    }),
    readOnly: z.boolean().default(false).meta({ description: 'Containers only.' }),
  })
  .refine((mount) => (mount.volume === undefined) !== (mount.host === undefined), {
    message: 'give either volume or host',
    path: ['volume'],
  })
export type Mount = z.infer<typeof Mount>

export const signalNames = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGKILL'] as const

export const roles = ['main', 'sidecar', 'prestart', 'poststop'] as const

export const TaskSpec = z.strictObject({
  role: z.enum(roles).default('main').meta({
    description:
      '`prestart` runs to its end before the main tasks start, `sidecar` beside them, `poststop` after them.',
  }),
  driver: z.enum(['process', 'container', 'fake']).meta({ description: 'What makes the task real.' }),
  image: z
    .string()
    .min(1)
    .max(512)
    .optional()
    .meta({ description: 'Container image, such as "alpine" or "registry.example/app:1.2".' }),
  pull: z.enum(['missing', 'always', 'never']).default('missing').meta({ description: 'When to pull the image.' }),
  credentials: z
    .strictObject({ username: Text, password: Text })
    .optional()
    .meta({ description: 'For the registry of the image.' }),
  command: z
    .union([Text.min(1), z.array(Text).min(1).max(1024)])
    .optional()
    .meta({
      description: 'The program, or program and arguments. For a container it replaces the entrypoint.',
    }),
  args: z.array(Text).max(1024).default([]),
  env: z.record(EnvName, z.union([z.string().max(32_768), z.number(), z.boolean()]).transform(String)).default({}),
  user: z.string().max(64).optional().meta({ description: 'User to run as; needs an agent that runs as root.' }),
  cwd: z
    .string()
    .max(1024)
    .optional()
    .meta({ description: 'Working directory; by default the task directory, or what the image says.' }),
  network: z
    .enum(['host', 'bridge', 'none'])
    .default('host')
    .meta({ description: 'Containers only: whose network the task sees.' }),
  resources: Resources.prefault({}),
  artifacts: z.array(Artifact).max(64).default([]),
  templates: z.array(Template).max(64).default([]),
  mounts: z.array(Mount).max(64).default([]),
  checks: z.array(Check).max(16).default([]),
  kill: z
    .strictObject({ signal: z.enum(signalNames).default('SIGTERM'), grace: Pause.default(5000) })
    .prefault({})
    .meta({ description: 'How the task is asked to end, and how long before it is made to.' }),
  logs: z
    .strictObject({ size: Size.default(10 * MiB), files: z.int().min(1).max(100).default(5) })
    .prefault({})
    .meta({ description: 'Output kept per stream: `files` times `size` bytes.' }),
  config: z.record(z.string(), z.unknown()).default({}).meta({ description: 'Settings that only this driver knows.' }),
})
export type TaskSpec = z.infer<typeof TaskSpec>

export interface Port {
  static?: number | undefined
  to?: number | undefined
}

export const PortSpec = z.union([
  z.literal('dynamic').transform((): Port => ({})),
  z
    .int()
    .min(1)
    .max(65_535)
    .transform((number): Port => ({ static: number })),
  z
    .strictObject({
      static: z
        .int()
        .min(1)
        .max(65_535)
        .optional()
        .meta({ description: 'This very port of the node; otherwise a free one.' }),
      to: z
        .int()
        .min(1)
        .max(65_535)
        .optional()
        .meta({ description: 'The port inside a container with network `bridge`.' }),
    })
    .transform((port): Port => port),
])
export type PortSpec = z.infer<typeof PortSpec>

export const RestartPolicy = z.strictObject({
  attempts: z.int().nonnegative().max(1000).optional().meta({
    description: 'Restarts on the same node within `interval`. By default 2 for a service, 3 for a batch job.',
  }),
  interval: Period.default(minutes(30)),
  delay: Pause.default(1000),
  maxDelay: Pause.default(minutes(1)),
  mode: z.enum(['fail', 'delay']).default('fail').meta({
    description: 'When attempts are used up: `fail` the allocation, or `delay` until the interval ends.',
  }),
})

export const ReschedulePolicy = z.strictObject({
  attempts: z.int().nonnegative().max(1000).optional().meta({
    description: 'New allocations after failed ones. By default without limit for a service, 1 for a batch job.',
  }),
  delay: Pause.default(5000),
  maxDelay: Pause.default(minutes(60)),
})

export const UpdatePolicy = z.strictObject({
  parallel: z.int().positive().max(10_000).default(1).meta({ description: 'Copies replaced at once.' }),
  healthyAfter: Pause.default(0).meta({
    description: 'How long a copy must have been healthy before the next is replaced.',
  }),
})

export const jobTypes = ['service', 'batch'] as const

export const JobSpec = z
  .strictObject({
    name: Name,
    type: z.enum(jobTypes).default('service'),
    count: z.int().nonnegative().max(50_000).default(1),
    priority: z.int().min(1).max(100).default(50),
    labels: z.record(z.string().max(63), z.string().max(255)).default({}),
    constraints: z.array(Constraint).max(64).default([]),
    ports: z.record(Name, PortSpec).default({}),
    volumes: z
      .record(Name, z.strictObject({ size: Size.optional() }))
      .default({})
      .meta({ description: 'Named volumes kept on the node beyond any one allocation.' }),
    restart: RestartPolicy.prefault({}),
    reschedule: ReschedulePolicy.prefault({}),
    update: UpdatePolicy.prefault({}),
    tasks: z.record(Name, TaskSpec).meta({ description: 'The tasks of one copy, by name.' }),
  })
  .superRefine((job, context) => {
    for (const mistake of crossChecks(job)) context.addIssue({ code: 'custom', ...mistake })
  })
  .meta({ id: 'JobSpec', title: 'Job' })
export type JobSpec = z.infer<typeof JobSpec>
/** What a person may write: sizes and durations as text, defaults left out. */
export type JobInput = z.input<typeof JobSpec>

interface Mistake {
  message: string
  path: (string | number)[]
}

/** What no single field can tell. */
function* crossChecks(job: JobSpec): Iterable<Mistake> {
  const tasks = Object.entries(job.tasks)
  if (tasks.length === 0) yield { message: 'a job needs at least one task', path: ['tasks'] }
  else if (!tasks.some(([, task]) => task.role === 'main'))
    yield { message: 'a job needs a task with role "main"', path: ['tasks'] }
  if (tasks.length > 32) yield { message: 'a job has at most 32 tasks', path: ['tasks'] }
  for (const [name, task] of tasks) {
    const path = ['tasks', name]
    if (task.driver === 'container' && task.image === undefined)
      yield { message: 'a container task needs an image', path: [...path, 'image'] }
    if (task.driver === 'process' && task.command === undefined)
      yield { message: 'a process task needs a command', path: [...path, 'command'] }
    if (task.driver === 'process' && task.image !== undefined) {
      yield { message: 'a process task has no image; use driver "container", or an artifact', path: [...path, 'image'] }
    }
    for (const [index, mount] of task.mounts.entries()) {
      if (task.driver === 'container' && mount.to === undefined)
        yield { message: 'a container needs to know where to mount it', path: [...path, 'mounts', index, 'to'] }
    }
    for (const [index, check] of task.checks.entries()) {
      if (check.type !== 'script' && !(check.port in job.ports)) {
        const known = Object.keys(job.ports)
        yield {
          message: `no port is named "${check.port}"; ${known.length > 0 ? `the ports are ${known.join(', ')}` : 'declare it under "ports"'}`,
          path: [...path, 'checks', index, 'port'],
        }
      }
    }
  }
  const statics = new Map<number, string>()
  for (const [name, port] of Object.entries(job.ports)) {
    if (port.static === undefined) continue
    const other = statics.get(port.static)
    if (other !== undefined)
      yield { message: `port ${port.static} is already taken by "${other}"`, path: ['ports', name] }
    statics.set(port.static, name)
  }
}

/** Restarts on the same node that the policy allows. */
export function restartAttempts(job: Pick<JobSpec, 'type' | 'restart'>): number {
  return job.restart.attempts ?? (job.type === 'service' ? 2 : 3)
}

/** New allocations after failed ones that the policy allows. */
export function rescheduleAttempts(job: Pick<JobSpec, 'type' | 'reschedule'>): number {
  return job.reschedule.attempts ?? (job.type === 'service' ? Number.POSITIVE_INFINITY : 1)
}

/** Program and arguments; empty when the image says what to run. */
export function commandLine(task: Pick<TaskSpec, 'command' | 'args'>): string[] {
  if (task.command === undefined) return []
  return [...(typeof task.command === 'string' ? [task.command] : task.command), ...task.args]
}
