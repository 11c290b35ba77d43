import type { Allocation } from './allocation.ts'
import type { AllocationId, BuildId, NodeId, SandboxId, TokenId } from './ids.ts'
import type { JobSpec } from './job.ts'
import type { Node } from './node.ts'
import type { Build, BuildLog, Sandbox, Template } from './sandbox.ts'

/** A job as stored: its newest version and whether it is wanted. */
export interface Job {
  name: string
  version: number
  spec: JobSpec
  /** Stopped: wanted zero times, kept for its history. */
  stopped: boolean
  createdAt: number
  changedAt: number
  /** Raised to have finished batch slots run again. */
  round: number
  /** Why not all copies are placed, as of the last plan; empty when they are. */
  blocked: string
  /** The version that every live copy is known to have reached; lower while an update is under way. */
  settled: number
}

/** One version of a job, kept so that it can be shown and reverted to. */
export interface JobVersion {
  job: string
  version: number
  spec: JobSpec
  at: number
  by: string
}

export interface FailedAttempt {
  allocation: AllocationId
  node: NodeId
  at: number
  message: string
}

/** The nth copy of a job: a durable row with its history; never two live allocations in one slot. */
export interface Slot {
  job: string
  index: number
  /** The newest allocation, live or not. */
  allocation: AllocationId | null
  /** Failures since the last healthy run, newest last, at most ten. */
  failures: FailedAttempt[]
  /** How many there were in all. */
  failed: number
  /** Not to be tried again before this; ms since the epoch. */
  notBefore: number
  /** A batch copy that ended well is not run again in this round. */
  completedRound: number | null
}

/** A job that needs planning, and why; marking twice is the same as once. */
export interface Dirty {
  job: string
  reasons: string[]
  since: number
}

/** Something to be looked at again at an absolute time. */
export interface Timer {
  id: string
  at: number
  job: string
  reason: string
}

export type EventLevel = 'info' | 'warning' | 'error'

/** Something that happened, for people. Kept for a while, newest ones longest. */
export interface Event {
  id: string
  at: number
  level: EventLevel
  /** A closed, dotted vocabulary such as `allocation.failed`; see docs/events.md. */
  kind: string
  message: string
  job?: string
  allocation?: AllocationId
  task?: string
  node?: NodeId
  sandbox?: SandboxId
  build?: BuildId
}

/** What a token may do. `connect` is a way into workloads: exec and signals. */
export const accessRoles = ['compute:read', 'compute:write', 'compute:connect', 'admin:read', 'admin:write'] as const
export type AccessRole = (typeof accessRoles)[number]

/** A service account's token; only its hash is kept. */
export interface AccessToken {
  id: TokenId
  name: string
  roles: AccessRole[]
  /** SHA-256 of the secret, hex. */
  hash: string
  createdAt: number
  /** Ms since the epoch; null: does not expire. */
  expiresAt: number | null
}

/** Lets machines join; only its hash is kept. */
export interface JoinToken {
  id: TokenId
  name: string
  hash: string
  createdAt: number
  expiresAt: number
  /** Joins left; null: any number until it expires. */
  usesLeft: number | null
  labels: Record<string, string>
}

/** The cluster's own facts: its name and its certificate authority. */
export interface ClusterRecord {
  id: 'cluster'
  name: string
  createdAt: number
  caCertificate: string
  /** PKCS#8 PEM. The state directory is readable by its owner only. */
  caKey: string
}

/** Who did what through the API; every write is here. */
export interface AuditRecord {
  id: string
  at: number
  by: string
  action: string
  subject: string
  outcome: string
}

/** Of a sandbox that is not over, for every command in it. Apart from its row, because no API shows it. */
export interface SandboxEnvironment {
  sandbox: SandboxId
  env: Record<string, string>
}

/** Every table of the store and what its rows are. */
export interface Tables {
  cluster: ClusterRecord
  jobs: Job
  jobVersions: JobVersion
  slots: Slot
  allocations: Allocation
  nodes: Node
  dirty: Dirty
  timers: Timer
  events: Event
  accessTokens: AccessToken
  joinTokens: JoinToken
  audit: AuditRecord
  templates: Template
  builds: Build
  buildLogs: BuildLog
  sandboxes: Sandbox
  sandboxEnvironments: SandboxEnvironment
}
export type TableName = keyof Tables

export const tableNames = [
  'cluster',
  'jobs',
  'jobVersions',
  'slots',
  'allocations',
  'nodes',
  'dirty',
  'timers',
  'events',
  'accessTokens',
  'joinTokens',
  'audit',
  'templates',
  'builds',
  'buildLogs',
  'sandboxes',
  'sandboxEnvironments',
] as const satisfies readonly TableName[]

/** The key of each row in its table. */
export const keyOf: { [T in TableName]: (row: Tables[T]) => string } = {
  cluster: (row) => row.id,
  jobs: (row) => row.name,
  jobVersions: (row) => versionKey(row.job, row.version),
  slots: (row) => slotKey(row.job, row.index),
  allocations: (row) => row.id,
  nodes: (row) => row.id,
  dirty: (row) => row.job,
  timers: (row) => row.id,
  events: (row) => row.id,
  accessTokens: (row) => row.id,
  joinTokens: (row) => row.id,
  audit: (row) => row.id,
  templates: (row) => row.name,
  builds: (row) => row.id,
  buildLogs: (row) => `${row.build}/${String(row.part).padStart(6, '0')}`,
  sandboxes: (row) => row.id,
  sandboxEnvironments: (row) => row.sandbox,
}

export function slotKey(job: string, index: number): string {
  return `${job}/${index}`
}

export function versionKey(job: string, version: number): string {
  return `${job}@${version}`
}
