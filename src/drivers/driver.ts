import type { Guest } from '../guest/guest.ts'
import type { TaskSpec } from '../model/job.ts'
import type { DriverFacts } from '../model/node.ts'

/**
 * The seam to a technology that makes tasks real. Every method may be called again after a crash and must then finish
 * the job: the agent writes down what it is about to do, and repeats it when it cannot know how far it came.
 */
export interface Driver {
  readonly name: string
  readonly can: Capabilities
  /** What this machine allows. Cheap enough to be asked every half minute; never throws. */
  facts(): Promise<DriverFacts>
  /** Fetches and creates everything slow, such as an image, so that `start` is quick. */
  prepare(plan: TaskPlan, options: PrepareOptions): Promise<void>
  /**
   * Starts the task; resolves when it runs. Starting an attempt that is already running adopts it. Rejects with a
   * Fault when it cannot run, with nothing left behind.
   */
  start(plan: TaskPlan, options: { signal: AbortSignal }): Promise<Handle>
  /**
   * Finds an attempt that outlived the agent: alive, or ended with its exit recorded. Undefined when there is no trace
   * of it; it is then never begun again under the same attempt.
   */
  adopt(plan: TaskPlan): Promise<Handle | undefined>
  /** Ends whatever is left of the task (every attempt, every descendant) and frees all it held. Idempotent. */
  remove(plan: Pick<TaskPlan, 'id' | 'directory'>): Promise<void>
  /**
   * Where it keeps images: removes unused ones, least recently used first, until they take no more than this. Never one
   * that a task uses, or is being prepared with. Says which went.
   */
  evict?(budgetBytes: number): Promise<string[]>
}

export interface Capabilities {
  /** A way in by exec. */
  exec: boolean
  /** exec with a terminal. */
  terminal: boolean
  /** Signals other than the last one. */
  signals: boolean
  stats: boolean
  /** Memory and CPU limits are enforced. */
  limits: boolean
  /** Runs OCI images. */
  images: boolean
}

/** One attempt at one task: plain data, complete, kept by the agent so that it can be given again after a crash. */
export interface TaskPlan {
  /** `<allocation>-<task>`: unique on the node, safe as a file, cgroup and container name. */
  id: string
  job: string
  allocation: string
  task: string
  /** Counts starts of this task, from 1. */
  attempt: number
  /** With every reference already replaced. */
  spec: TaskSpec
  /** The whole environment, the spec's included. */
  env: Record<string, string>
  /** The task directory: absolute, exists, the working directory unless the spec says otherwise. */
  directory: string
  /** For the driver's own files; absolute, exists, outside the task's sight. */
  stateDirectory: string
  limits: Limits
  /** Ports by name: number on the node, and the number inside where the task has its own network. */
  ports: Record<string, { host: number; to: number }>
  mounts: { source: string; target: string; readOnly: boolean }[]
  /** Files that output is appended to; the driver makes sure that the task can go on writing while the agent is away. */
  output: { stdout: string; stderr: string }
}

export interface Limits {
  /** Bytes; 0 without a limit. */
  memory: number
  /** CPU as a share of one core; 0 without one. Guaranteed, not a ceiling. */
  cores: number
  /** Most processes and threads; 0 without a limit. */
  pids: number
}

export interface PrepareOptions {
  signal: AbortSignal
  /** One line for people; called as often as there is news. */
  progress: (message: string) => void
}

/** Our grip on one live attempt. Disposing lets go of it; only `stop` ends it. */
export interface Handle extends AsyncDisposable {
  readonly pid: number | undefined
  /** Ms since the epoch. */
  readonly startedAt: number
  /** Settles when the attempt has ended; never rejects. */
  readonly exited: Promise<Exit>
  /** Sends a signal such as SIGHUP to the main process. */
  signal(name: string): Promise<void>
  /** Asks with `signal`, and after `graceMs` makes it end with everything it started. Resolves when it has ended. */
  stop(options: { signal: string; graceMs: number }): Promise<void>
  stats(): Promise<Stats>
  readonly guest: Guest
}

export interface Exit {
  /** 128 + n for death by signal n. */
  code: number
  signal?: string | undefined
  outOfMemory?: boolean | undefined
  /** Set when the attempt is gone and its exit was not recorded; `code` is then 255. */
  unknown?: string | undefined
}

export interface Stats {
  /** Bytes. */
  memory: number
  /** Ms of CPU used since the start. */
  cpuMs: number
  pids: number
}
