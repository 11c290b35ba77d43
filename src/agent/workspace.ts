import type { TaskPlan } from '../drivers/driver.ts'
import type { JobSpec, TaskSpec } from '../model/job.ts'
import type { Known } from './references.ts'

/** The seam to the node's files: directories, artifacts, templates, volumes and logs of tasks. */
export interface Workspace {
  /** Where things of a task will be. Pure: nothing is made yet. */
  places(allocation: string, task: string): Places
  /** Path on the node of each volume that the task mounts; a Fault when neither the job nor the node has it. */
  volumes(job: JobSpec, task: TaskSpec): Record<string, string>
  /**
   * The mounts of a task, each a path that exists; makes job volumes that are missing. `task` has its references
   * replaced. A Fault `denied` when a host path is not allowed on this node.
   */
  mounts(job: JobSpec, task: TaskSpec): Promise<TaskPlan['mounts']>
  /** Makes the directories. May be called again. */
  make(places: Places, task: TaskSpec): Promise<void>
  /** Brings the artifacts into the task directory; on failure nothing partial is left. */
  fetch(places: Places, task: TaskSpec, options: { signal: AbortSignal; progress: Progress }): Promise<void>
  /** Writes the templates, and returns what they add to the environment. */
  render(places: Places, task: TaskSpec, known: Known): Promise<Record<string, string>>
  /** Allocations and their tasks that have left traces here. */
  list(): Promise<{ allocation: string; tasks: string[] }[]>
  /** Removes all of an allocation but its volumes. */
  remove(allocation: string): Promise<void>
  /** Keeps the newest output only, as the spec says. */
  trimLogs(places: Places, logs: TaskSpec['logs']): Promise<void>
  openLog(path: string): LogFile
}

/** What an artifact is doing: a line for people; `done` when it is there. */
export type Progress = (news: { message: string; done: boolean }) => void

export interface Places {
  directory: string
  stateDirectory: string
  output: { stdout: string; stderr: string }
}

/**
 * One output file, by offsets that stay the same while its head is cut off. Every call opens the file anew, so that
 * nothing has to be closed.
 */
export interface LogFile {
  /** Offsets of the first byte kept and of the end; equal while nothing was written. */
  extent(): Promise<{ start: number; end: number }>
  /** At most `length` bytes from `offset`, which must not be before the start; empty at the end. */
  read(offset: number, length: number): Promise<Buffer>
}
