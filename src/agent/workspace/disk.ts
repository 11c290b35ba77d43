import { mkdir, readdir, realpath, rm } from 'node:fs/promises'
import { basename, dirname, join, relative, resolve } from 'node:path'
import type { Clock } from '../../kit/clock.ts'
import { Fault } from '../../model/fault.ts'
import type { JobSpec, TaskSpec } from '../../model/job.ts'
import type { Places, Workspace } from '../workspace.ts'
import { ArtifactStore } from './artifacts.ts'
import { DiskLog, trimLog } from './log.ts'
import { giveTo } from './owner.ts'
import { renderTemplates } from './templates.ts'
import { checkWay, letPass } from './way.ts'

export interface DiskOptions {
  /** The agent's own directory; absolute. */
  root: string
  clock: Clock
  /** Volumes that the node's owner offers: path by name. */
  volumes?: Readonly<Record<string, string>>
  /** Paths that tasks may mount and `file:` artifacts may come from, with all that is under them. */
  hostPaths?: readonly string[]
}

/**
 * A node's files:
 *
 *   allocations/<id>/<task>/   the task directory, all that the task is given to see
 *   state/<id>/<task>/         the driver's, out of the task's sight
 *   logs/<id>/<task>.stdout    output, appended to by the task itself
 *   volumes/<job>.<volume>/    kept beyond any one allocation
 *   cache/                     artifacts by their checksum
 */
export function openWorkspace({ root, clock, volumes: offered = {}, hostPaths = [] }: DiskOptions): Workspace {
  const artifacts = new ArtifactStore({ directory: join(root, 'cache'), clock })
  const allocations = join(root, 'allocations')
  const logs = join(root, 'logs')
  const made = new Set<string>()
  /** Allocations that need no directory so far. */
  const bare = new Set<string>()

  const volumePath = (job: JobSpec, name: string): string => {
    if (name in job.volumes) return join(root, 'volumes', `${job.name}.${name}`)
    const path = offered[name]
    if (path !== undefined) return path
    const known = [...Object.keys(job.volumes), ...Object.keys(offered)]
    throw new Fault(
      'invalid',
      `no volume is named "${name}", neither by job "${job.name}" nor by this node; known are ${known.join(', ') || 'none'}`,
    )
  }

  const volume = async (job: JobSpec, task: TaskSpec, name: string): Promise<string> => {
    const path = volumePath(job, name)
    if (!(name in job.volumes)) return path
    await mkdir(dirname(path), { recursive: true, mode: 0o711 })
    const fresh = await mkdir(path, { recursive: true, mode: 0o755 })
    if (fresh !== undefined) await giveTo(path, task)
    return path
  }

  return {
    places: (allocation, task) => ({
      directory: join(allocations, allocation, task),
      stateDirectory: join(root, 'state', allocation, task),
      output: { stdout: join(logs, allocation, `${task}.stdout`), stderr: join(logs, allocation, `${task}.stderr`) },
    }),

    volumes: (job, task) => {
      const names = task.mounts.flatMap(({ volume }) => (volume === undefined ? [] : [volume]))
      return Object.fromEntries(names.map((name) => [name, volumePath(job, name)]))
    },

    mounts: (job, task) =>
      Promise.all(
        task.mounts.map(async (mount) => {
          const source =
            mount.host === undefined
              ? await volume(job, task, mount.volume ?? '')
              : await allowed(mount.host, hostPaths, 'mount')
          if (task.driver === 'process') checkForProcess(mount, source)
          return { source, target: mount.to ?? source, readOnly: mount.readOnly }
        }),
      ),

    make: async (places, task) => {
      // The fake driver has no use for directories, and thousands may come at once.
      const allocation = basename(dirname(places.directory))
      if (task.driver === 'fake' && task.artifacts.length === 0 && task.templates.length === 0) {
        if (!made.has(allocation)) bare.add(allocation)
        return
      }
      made.add(allocation)
      bare.delete(allocation)
      await makeDirectories(places, task, { root, made })
    },

    fetch: async (places, task, { signal, progress }) => {
      for (const artifact of task.artifacts) {
        const { pathname, protocol } = new URL(artifact.url)
        if (protocol === 'file:') await allowed(decodeURIComponent(pathname), hostPaths, 'read')
        const { disk } = task.resources
        await artifacts.bring(artifact, places.directory, {
          signal,
          maxBytes: disk > 0 ? disk : undefined,
          owner: task,
          progress,
        })
      }
    },

    render: (places, task, known) => renderTemplates(places.directory, task, known),

    list: async () => {
      const found = new Map<string, Set<string>>()
      for (const part of ['allocations', 'state']) {
        for (const id of await readdir(join(root, part)).catch(() => [])) {
          if (!/^[0-9a-z]{16}$/.test(id)) continue
          const tasks = found.get(id) ?? new Set()
          for (const task of await readdir(join(root, part, id)).catch(() => [])) tasks.add(task)
          found.set(id, tasks)
        }
      }
      return [...found].map(([allocation, tasks]) => ({ allocation, tasks: [...tasks] }))
    },

    remove: async (allocation) => {
      if (bare.delete(allocation)) return
      made.delete(allocation)
      for (const part of ['allocations', 'logs', 'state']) {
        await rm(join(root, part, allocation), { recursive: true, force: true, maxRetries: 3 })
      }
    },

    trimLogs: async ({ output }, { size, files }) => {
      await trimLog(output.stdout, size * files)
      await trimLog(output.stderr, size * files)
    },

    openLog: (path) => new DiskLog(path),
  }
}

async function makeDirectories(
  places: Places,
  task: TaskSpec,
  { root, made }: { root: string; made: Set<string> },
): Promise<void> {
  // A task that runs as another user must be able to pass through, and to look nowhere else.
  for (const [part, mode] of [
    ['', 0o711],
    ['allocations', 0o711],
    ['logs', 0o700],
    ['state', 0o700],
  ] as const) {
    const directory = join(root, part)
    if (made.has(directory)) continue
    await mkdir(directory, { recursive: true, mode })
    if (mode === 0o711) await letPass(directory)
    made.add(directory)
  }
  await mkdir(places.stateDirectory, { recursive: true, mode: 0o700 })
  await mkdir(join(places.output.stdout, '..'), { recursive: true, mode: 0o700 })
  await mkdir(join(places.directory, '..'), { recursive: true, mode: 0o711 })
  await mkdir(places.directory, { recursive: true, mode: 0o755 })
  await giveTo(places.directory, task)
  await checkWay(places.directory, task)
}

/** A process sees the node's own files: what only a container can have is refused rather than silently left out. */
function checkForProcess({ volume, host, to, readOnly }: TaskSpec['mounts'][number], source: string): void {
  const what = volume === undefined ? `host path ${host}` : `volume "${volume}"`
  if (to !== undefined && to !== source && to !== host) {
    const instead = volume === undefined ? host : `\${volume.${volume}}`
    throw new Fault(
      'invalid',
      `the ${what} cannot be mounted at ${to}, because a process sees the files of its node as they are; leave "to" out and use ${instead}, or use driver "container"`,
    )
  }
  if (readOnly) {
    throw new Fault(
      'invalid',
      `the ${what} cannot be made read-only for a process; leave "readOnly" out and give the task a "user" who may only read it, or use driver "container"`,
    )
  }
}

/** The path with every link followed, if it is one that this node's owner allows. */
async function allowed(path: string, hostPaths: readonly string[], what: 'mount' | 'read'): Promise<string> {
  const real = await realpath(path).catch((error: unknown) => {
    if (!hostPaths.some((top) => within(resolve(top), resolve(path)))) throw refusal(path, hostPaths, what)
    throw new Fault('not_found', `the host path ${path} does not exist on this node`, { cause: error })
  })
  for (const top of hostPaths) {
    const realTop = await realpath(top).catch(() => undefined)
    if (realTop !== undefined && within(realTop, real)) return real
  }
  throw refusal(path, hostPaths, what)
}

function within(top: string, path: string): boolean {
  const way = relative(top, path)
  return way === '' || (way !== '..' && !way.startsWith('../') && !way.startsWith('/'))
}

function refusal(path: string, hostPaths: readonly string[], what: 'mount' | 'read'): Fault {
  const allowance = hostPaths.length === 0 ? 'it allows no host path' : `it allows ${hostPaths.join(', ')}`
  const verb = what === 'mount' ? 'mounted' : 'read as an artifact'
  return new Fault('denied', `the host path ${path} may not be ${verb} on this node; ${allowance}`)
}
