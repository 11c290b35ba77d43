import type { TaskPlan } from '../drivers/driver.ts'
import { Fault } from '../model/fault.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'
import type { NodeFacts } from '../model/node.ts'
import type { Assignment } from '../wire/messages.ts'
import { type Known, replaceIn, replaceReferences } from './references.ts'

/** What a task's references and environment are made from. */
export interface Surroundings {
  node: { id: string; name: string; labels: Readonly<Record<string, string>> }
  facts: NodeFacts
  assignment: Assignment
  spec: JobSpec
  task: string
  /** The task directory on the node. */
  directory: string
  /** Paths on the node of the volumes that the task mounts, by name. */
  volumes: Readonly<Record<string, string>>
  /** What templates added. */
  templateEnv: Readonly<Record<string, string>>
}

/** Where a container sees its task directory; see the container driver. */
const containerTaskDirectory = '/task'

/** A task's spec with every reference replaced, its whole environment, and the names that its templates may use. */
export function surround(around: Surroundings): { spec: TaskSpec; env: Record<string, string>; known: Known } {
  const task = around.spec.tasks[around.task]
  if (task === undefined) throw new Fault('internal', `job "${around.spec.name}" has no task "${around.task}"`)
  const known = new Map<string, string | (() => string)>(names(around, task))
  const env = standardEnv(around, task)
  for (const [name, value] of Object.entries(env)) known.set(`env.${name}`, value)
  const raw = { ...around.templateEnv, ...task.env }
  for (const [name, value] of Object.entries(task.env)) known.set(`env.${name}`, lazily(name, value, known))
  for (const [name, value] of Object.entries(around.templateEnv))
    if (!(name in task.env)) known.set(`env.${name}`, value)
  for (const name of Object.keys(raw)) env[name] = textOf(known, `env.${name}`)
  // Templates keep their text: it is replaced when they are written, and may come from an artifact.
  const { templates, env: _, ...rest } = task
  const replaced = refersToSomething(task) ? replaceIn(rest, known) : rest
  return { spec: { ...replaced, templates, env: envOf(task, env) }, env, known }
}

function* names({ node, facts, assignment, spec, directory, volumes, ...around }: Surroundings, task: TaskSpec) {
  const inContainer = task.driver === 'container'
  yield* Object.entries({
    'node.id': node.id,
    'node.name': node.name,
    'node.os': facts.os,
    'node.arch': facts.arch,
    'node.hostname': facts.hostname,
    'alloc.id': assignment.id as string,
    'alloc.slot': String(assignment.slot),
    'job.name': spec.name,
    'job.version': String(assignment.version),
    'task.name': around.task,
    'task.dir': inContainer ? containerTaskDirectory : directory,
    address: facts.address,
  })
  for (const [name, value] of Object.entries({ ...facts.labels, ...node.labels }))
    yield [`node.label.${name}`, value] as const
  for (const [name, value] of Object.entries(facts.attributes)) yield [`node.attr.${name}`, value] as const
  for (const [driver, { attributes }] of Object.entries(facts.drivers)) {
    for (const [name, value] of Object.entries(attributes)) yield [`node.attr.${driver}.${name}`, value] as const
  }
  for (const [name, port] of Object.entries(assignment.ports)) yield [`port.${name}`, String(port)] as const
  for (const [name, path] of Object.entries(volumes)) {
    const mount = task.mounts.find(({ volume }) => volume === name)
    yield [`volume.${name}`, inContainer && mount?.to !== undefined ? mount.to : path] as const
  }
}

function standardEnv({ node, facts, assignment, spec, directory, ...around }: Surroundings, task: TaskSpec) {
  const inContainer = task.driver === 'container'
  const env: Record<string, string> = {
    // A container's image brings its own.
    ...(inContainer ? {} : { PATH: defaultPath, HOME: directory, LANG: 'C.UTF-8' }),
    TUTTI_ALLOCATION: assignment.id,
    TUTTI_JOB: spec.name,
    TUTTI_TASK: around.task,
    TUTTI_SLOT: String(assignment.slot),
    TUTTI_NODE: node.name,
    TUTTI_ADDRESS: facts.address,
    TUTTI_TASK_DIR: inContainer ? containerTaskDirectory : directory,
    TUTTI_TASK_ID: taskId(assignment.id, around.task),
  }
  for (const [name, port] of Object.entries(assignment.ports)) {
    env[`TUTTI_PORT_${name.toUpperCase().replaceAll('-', '_')}`] = String(port)
  }
  return env
}

const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** One variable may name another, in any order; a circle is a Fault. */
function lazily(name: string, value: string, known: Known): string | (() => string) {
  if (!value.includes('${')) return value
  let state: 'fresh' | 'busy' | { value: string } = 'fresh'
  return () => {
    if (state === 'busy') throw new Fault('invalid', `the environment variable ${name} is defined in terms of itself`)
    if (state === 'fresh') {
      state = 'busy'
      state = { value: replaceReferences(value, known) }
    }
    return state.value
  }
}

function textOf(known: Known, name: string): string {
  const value = known.get(name) ?? ''
  return typeof value === 'function' ? value() : value
}

const referring = new WeakMap<TaskSpec, boolean>()

/** Asked once per spec: most have no references, and there may be thousands of allocations of one. */
function refersToSomething(task: TaskSpec): boolean {
  let answer = referring.get(task)
  if (answer === undefined) {
    answer = JSON.stringify(task).includes('${')
    referring.set(task, answer)
  }
  return answer
}

function envOf(task: TaskSpec, env: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.keys(task.env).map((name) => [name, env[name] ?? '']))
}

export function taskId(allocation: string, task: string): string {
  return `${allocation}-${task}`
}

/** The plan of one attempt, complete. */
export function planTask(
  around: Surroundings,
  parts: Pick<TaskPlan, 'attempt' | 'stateDirectory' | 'mounts' | 'output'>,
  surrounded: { spec: TaskSpec; env: Record<string, string> },
): TaskPlan {
  const { assignment, facts } = around
  const { spec, env } = surrounded
  const { resources } = spec
  const ports: TaskPlan['ports'] = {}
  for (const [name, host] of Object.entries(assignment.ports)) {
    ports[name] = { host, to: around.spec.ports[name]?.to ?? host }
  }
  return {
    id: taskId(assignment.id, around.task),
    job: around.spec.name,
    allocation: assignment.id,
    task: around.task,
    spec,
    env,
    directory: around.directory,
    limits: {
      memory: resources.memory,
      cores: resources.cores > 0 ? resources.cores : resources.cpu / facts.coreMHz,
      pids: resources.pids ?? 0,
    },
    ports,
    ...parts,
  }
}
