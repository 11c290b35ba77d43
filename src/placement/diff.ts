import type { JobSpec } from '../model/job.ts'

export interface Difference {
  /** Such as `tasks.web.image` or `constraints[0]`. */
  path: string
  /** Undefined where there is none. */
  before: unknown
  after: unknown
}

/** What differs between two specs, as small as it can be said, in the order of the fields. */
export function diffSpecs(before: JobSpec, after: JobSpec): Difference[] {
  return [...differences('', before, after)]
}

/**
 * The changes that a running copy cannot take in: it has to be replaced. None: it may go on under the new version.
 * What only the control plane looks at, and how the agent treats the ends of tasks, needs no restart.
 */
export function needsRestart(before: JobSpec, after: JobSpec): string[] {
  const paths: string[] = []
  for (const { path } of diffSpecs(before, after)) if (!inPlace.has(rootOf(path))) paths.push(path)
  return paths
}

const inPlace = new Set(['count', 'priority', 'labels', 'constraints', 'restart', 'reschedule', 'update'])

function rootOf(path: string): string {
  return /^[^.[]*/.exec(path)?.[0] ?? path
}

function* differences(path: string, before: unknown, after: unknown): Iterable<Difference> {
  if (Object.is(before, after)) return
  if (Array.isArray(before) && Array.isArray(after)) {
    for (let index = 0; index < Math.max(before.length, after.length); index += 1) {
      yield* differences(`${path}[${index}]`, before[index], after[index])
    }
  } else if (isRecord(before) && isRecord(after)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
      const name = /^[\w-]+$/.test(key) ? key : JSON.stringify(key)
      yield* differences(path === '' ? name : `${path}.${name}`, before[key], after[key])
    }
  } else yield { path, before, after }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
