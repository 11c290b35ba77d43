import { z } from 'zod'
import { Fault } from '../../model/fault.ts'
import type { TaskPlan } from '../driver.ts'

/**
 * What `config:` of a container task may hold. All of it takes something away from the task: whatever would give it
 * power over the node (capabilities, devices, the host's process table) is the node owner's business and not here.
 */
const ContainerSettings = z.strictObject({
  /**
   * A small init is the container's first process: it passes signals on, buries orphans, and lets the program die of
   * a signal that it does not handle, which the kernel spares the first process of a container.
   */
  init: z.boolean().default(false),
  /** The image's files cannot be written to; /tmp and the task directory can. */
  readOnlyRoot: z.boolean().default(false),
  /** Programs with the set-user-id bit give nothing. */
  noNewPrivileges: z.boolean().default(false),
  /** Such as `NET_RAW`; `ALL` for every one. */
  dropCapabilities: z
    .array(z.string().regex(/^(CAP_)?[A-Z_]+$/, 'must be a capability such as "NET_RAW"'))
    .max(64)
    .default([]),
  hostname: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/, 'must be a host name')
    .optional(),
})
export type ContainerSettings = z.infer<typeof ContainerSettings>

export function settingsOf(plan: TaskPlan): ContainerSettings {
  const parsed = ContainerSettings.safeParse(plan.spec.config)
  if (parsed.success) return parsed.data
  const [first] = parsed.error.issues
  throw new Fault('invalid', `config of container task "${plan.task}": ${first?.path.join('.')} ${first?.message}`)
}

/** The task directory as the task sees it; TUTTI_TASK_DIR says so too. */
export const taskDirectory = '/task'

export interface ProgramOfImage {
  entrypoint: readonly string[]
  command: readonly string[]
}

/** `command` of the spec replaces the image's entrypoint and command, `args` alone only the command. */
export function argumentsOf(plan: TaskPlan, image: ProgramOfImage): string[] {
  const { command, args } = plan.spec
  const whole =
    command === undefined
      ? [...image.entrypoint, ...(args.length > 0 ? args : image.command)]
      : [...(typeof command === 'string' ? [command] : command), ...args]
  if (whole.length > 0) return whole
  throw new Fault('invalid', `image "${plan.spec.image}" does not say what to run; give task "${plan.task}" a command`)
}

/** Where the task starts: what the spec says, what the image says, or the task directory. */
export function workingDirectoryOf(plan: TaskPlan, ofImage: string): string {
  const { cwd } = plan.spec
  if (cwd === undefined) return ofImage || taskDirectory
  return cwd.startsWith('/') ? cwd : `${taskDirectory}/${cwd}`
}

/** Nothing of the agent's own environment; the image's, and over it the task's. */
export function environmentOf(plan: TaskPlan, ofImage: readonly string[]): Record<string, string> {
  const env: Record<string, string> = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' }
  for (const pair of ofImage) {
    const at = pair.indexOf('=')
    if (at > 0) env[pair.slice(0, at)] = pair.slice(at + 1)
  }
  return { ...env, ...plan.env, TUTTI_TASK_DIR: taskDirectory }
}

export function imageOf(plan: TaskPlan): string {
  if (plan.spec.image !== undefined) return plan.spec.image
  throw new Fault('invalid', `container task "${plan.task}" names no image`)
}
