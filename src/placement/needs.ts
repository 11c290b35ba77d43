import type { JobSpec } from '../model/job.ts'

/** What a job's tasks need a node to have, gathered once per spec. */
interface Needs {
  drivers: readonly string[]
  networks: readonly string[]
  volumes: readonly string[]
}

export const driversOf = (spec: JobSpec): readonly string[] => needsOf(spec).drivers
/** Networks of container tasks. */
export const networksOf = (spec: JobSpec): readonly string[] => needsOf(spec).networks
/** Named volumes that the job mounts and does not declare itself. */
export const volumesOf = (spec: JobSpec): readonly string[] => needsOf(spec).volumes

const known = new WeakMap<JobSpec, Needs>()

function needsOf(spec: JobSpec): Needs {
  const before = known.get(spec)
  if (before) return before
  const drivers = new Set<string>()
  const networks = new Set<string>()
  const volumes = new Set<string>()
  for (const task of Object.values(spec.tasks)) {
    drivers.add(task.driver)
    if (task.driver === 'container') networks.add(task.network)
    for (const { volume } of task.mounts) {
      if (volume !== undefined && !Object.hasOwn(spec.volumes, volume)) volumes.add(volume)
    }
  }
  const needs = { drivers: [...drivers], networks: [...networks], volumes: [...volumes] }
  known.set(spec, needs)
  return needs
}
