import { Fault } from '../model/fault.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'

/** Stands where a spec has a secret when the spec is shown. */
export const hidden = '(hidden)'

/** The spec as it may be shown: passwords for registries and headers for downloads are hidden. */
export function redactSpec(spec: JobSpec): JobSpec {
  return withTasks(spec, (task) => ({
    ...task,
    ...(task.credentials ? { credentials: { ...task.credentials, password: hidden } } : {}),
    artifacts: task.artifacts.map((artifact) => ({
      ...artifact,
      headers: Object.fromEntries(Object.keys(artifact.headers).map((name) => [name, hidden])),
    })),
  }))
}

/**
 * A spec that was shown, edited and sent back: what was hidden is taken from the stored spec. Throws a Fault `invalid`
 * where nothing is stored to take it from.
 */
export function restoreHidden(spec: JobSpec, stored: JobSpec | undefined): JobSpec {
  return withTasks(spec, (task, name) => {
    const before = stored?.tasks[name]
    const { credentials } = task
    return {
      ...task,
      ...(credentials
        ? {
            credentials: {
              ...credentials,
              password: restore(credentials.password, before?.credentials?.password, `tasks.${name}.credentials`),
            },
          }
        : {}),
      artifacts: task.artifacts.map((artifact) => {
        const old = before?.artifacts.find((other) => other.url === artifact.url)
        const headers = Object.entries(artifact.headers).map(([header, value]) => [
          header,
          restore(value, old?.headers[header], `tasks.${name}.artifacts`),
        ])
        return { ...artifact, headers: Object.fromEntries(headers) }
      }),
    }
  })
}

function withTasks(spec: JobSpec, change: (task: TaskSpec, name: string) => TaskSpec): JobSpec {
  const tasks = Object.entries(spec.tasks).map(([name, task]) => [name, change(task, name)])
  return { ...spec, tasks: Object.fromEntries(tasks) }
}

function restore(value: string, stored: string | undefined, path: string): string {
  if (value !== hidden) return value
  if (stored !== undefined) return stored
  const message = `"${hidden}" stands for a secret that is not known here; write the secret itself`
  throw new Fault('invalid', `${path}: ${message}`, { places: [{ path, message }] })
}
