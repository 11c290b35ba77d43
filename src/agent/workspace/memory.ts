import { Fault } from '../../model/fault.ts'
import type { JobSpec, TaskSpec } from '../../model/job.ts'
import type { Workspace } from '../workspace.ts'

/** A workspace without files, for simulation: paths are names only, and what needs a file is refused. */
export const memoryWorkspace: Workspace = {
  places: (allocation, task) => {
    const directory = `/simulated/${allocation}/${task}`
    return {
      directory,
      stateDirectory: `${directory}.state`,
      output: { stdout: `${directory}.stdout`, stderr: `${directory}.stderr` },
    }
  },
  volumes: (job, task) => volumes(job, task),
  mounts: async (job, task) => {
    const known = volumes(job, task)
    return task.mounts.map(({ volume, host, to, readOnly }) => {
      const source = host ?? known[volume ?? ''] ?? ''
      return { source, target: to ?? source, readOnly }
    })
  },
  make: async () => {},
  fetch: async (_, task) => {
    if (task.artifacts.length > 0) throw new Fault('invalid', 'a simulated node cannot fetch artifacts')
  },
  render: async () => ({}),
  list: async () => [],
  remove: async () => {},
  trimLogs: async () => {},
  openLog: () => ({ extent: async () => ({ start: 0, end: 0 }), read: async () => Buffer.alloc(0) }),
}

function volumes(job: JobSpec, task: TaskSpec): Record<string, string> {
  const names = task.mounts.flatMap(({ volume }) => (volume === undefined ? [] : [volume]))
  return Object.fromEntries(names.map((name) => [name, `/simulated/volumes/${job.name}.${name}`]))
}
