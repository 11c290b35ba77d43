import { z } from 'zod'
import { BuildId, SandboxId } from '../model/ids.ts'
import { Egress, SandboxSpec, sandboxPhases } from '../model/sandbox.ts'

/**
 * What the control plane asks of a node about sandboxes: services of the agent beside those of `services.ts`, and one kind
 * of message that the agent sends. `sandbox` answers with one line of JSON; the others are streams.
 */

/** Ids of new sandboxes and builds are the control plane's, so that a request may be repeated. */
export const SandboxRequest = z.discriminatedUnion('op', [
  z.strictObject({ op: z.literal('create'), spec: SandboxSpec }),
  z.strictObject({ op: z.literal('pause'), id: SandboxId, build: BuildId }),
  z.strictObject({ op: z.literal('resume'), spec: SandboxSpec }),
  z.strictObject({ op: z.literal('snapshot'), id: SandboxId, build: BuildId }),
  z.strictObject({
    op: z.literal('fork'),
    id: SandboxId,
    build: BuildId,
    children: z.array(SandboxSpec).min(1).max(100),
  }),
  z.strictObject({ op: z.literal('kill'), id: SandboxId }),
  z.strictObject({ op: z.literal('egress'), id: SandboxId, egress: Egress }),
  z.strictObject({ op: z.literal('metrics'), id: SandboxId }),
  z.strictObject({ op: z.literal('stat'), id: SandboxId, path: z.string().max(4096) }),
  z.strictObject({ op: z.literal('list'), id: SandboxId, path: z.string().max(4096) }),
  z.strictObject({ op: z.literal('mkdir'), id: SandboxId, path: z.string().max(4096) }),
  z.strictObject({ op: z.literal('move'), id: SandboxId, path: z.string().max(4096), to: z.string().max(4096) }),
  z.strictObject({ op: z.literal('remove'), id: SandboxId, path: z.string().max(4096) }),
  z.strictObject({ op: z.literal('processes'), id: SandboxId }),
  z.strictObject({ op: z.literal('signal'), id: SandboxId, pid: z.int().positive(), signal: z.string().max(16) }),
  /** Standard input of a command, as base64; `end` says that it was the last. */
  z.strictObject({
    op: z.literal('input'),
    id: SandboxId,
    pid: z.int().positive(),
    data: z.base64().max(2 ** 21),
    end: z.boolean(),
  }),
  z.strictObject({ op: z.literal('console'), id: SandboxId }),
  /** Removes a build's name on this node, so that the next collection frees it. */
  z.strictObject({ op: z.literal('forgetBuild'), build: BuildId }),
  /** Names a build that lies in the node's store already, and says what it is; `not_found` when it does not. */
  z.strictObject({ op: z.literal('adoptBuild'), build: BuildId }),
])
export type SandboxRequest = z.infer<typeof SandboxRequest>

/** What a command is; `detached` lets it go on without its stream. Frames as for `exec`, and `started` before them. */
export const SandboxExecStream = z.strictObject({
  id: SandboxId,
  command: z.array(z.string().max(65_536)).min(1).max(1024),
  env: z.record(z.string().max(255), z.string().max(32_768)).default({}),
  cwd: z.string().max(4096).optional(),
  user: z.string().max(64).optional(),
  terminal: z.strictObject({ columns: z.int().min(1).max(10_000), rows: z.int().min(1).max(10_000) }).optional(),
  detached: z.boolean().default(false),
  /** False: its input is at its end from the beginning. */
  stdin: z.boolean().default(true),
})
export type SandboxExecStream = z.infer<typeof SandboxExecStream>

/** Joins a command again, from an offset in its kept output. Giving the stream up lets go of it. */
export const SandboxAttachStream = z.strictObject({
  id: SandboxId,
  pid: z.int().positive(),
  from: z.int().nonnegative().default(0),
})
export type SandboxAttachStream = z.infer<typeof SandboxAttachStream>

/** A file's bytes, to the control plane (`read`) or from it (`write`: what comes until the stream's end; then one JSON line). */
export const SandboxFileStream = z.discriminatedUnion('op', [
  z.strictObject({
    op: z.literal('read'),
    id: SandboxId,
    path: z.string().max(4096),
    offset: z.int().nonnegative().optional(),
    length: z.int().nonnegative().optional(),
  }),
  z.strictObject({
    op: z.literal('write'),
    id: SandboxId,
    path: z.string().max(4096),
    mode: z.int().min(0).max(0o7777).optional(),
    user: z.string().max(64).optional(),
  }),
])
export type SandboxFileStream = z.infer<typeof SandboxFileStream>

/** Bytes to and from a TCP port on the guest's loopback. */
export const SandboxForwardStream = z.strictObject({ id: SandboxId, port: z.int().min(1).max(65_535) })
export type SandboxForwardStream = z.infer<typeof SandboxForwardStream>

/** File events, one JSON a line, until the stream is given up. */
export const SandboxWatchStream = z.strictObject({
  id: SandboxId,
  path: z.string().max(4096),
  recursive: z.boolean().default(false),
})
export type SandboxWatchStream = z.infer<typeof SandboxWatchStream>

/**
 * Builds a template on the node. The stream carries the build context as a tar archive to the node (empty without COPY),
 * and back one JSON a line: `{"log":{at,level,step,message}}` as it goes, and at the end `{"built":{…}}` or `{"fault":{…}}`.
 */
export const BuildStream = z.strictObject({
  build: BuildId,
  template: z.string().max(63),
  /** As checked by `recipe/recipe.ts`. */
  recipe: z.unknown(),
  noCache: z.boolean().default(false),
  /** Where the recipe begins from a template: the build it stands for. */
  from: BuildId.optional(),
  credentials: z.strictObject({ username: z.string().max(255), password: z.string().max(65_536) }).optional(),
  /** In base64. */
  secrets: z.record(z.string().max(255), z.string().max(100_000)).optional(),
})
export type BuildStream = z.infer<typeof BuildStream>

export const sandboxServices = {
  sandbox: SandboxRequest,
  sandboxExec: SandboxExecStream,
  sandboxAttach: SandboxAttachStream,
  sandboxFile: SandboxFileStream,
  sandboxForward: SandboxForwardStream,
  sandboxWatch: SandboxWatchStream,
  build: BuildStream,
} as const

export const SandboxReport = z.strictObject({
  id: SandboxId,
  phase: z.enum(sandboxPhases),
  build: BuildId,
  reason: z.string().max(2000).optional(),
})
export type SandboxReport = z.infer<typeof SandboxReport>

const Bytes = z.number().nonnegative()

/** What operators want to see of a node's sandboxes; counts are since the agent, or the block server, was started. */
export const NodeMeasures = z.strictObject({
  starts: z.strictObject({ running: z.int(), waiting: z.int(), none: z.int() }),
  freeMemory: Bytes,
  /** Absent where none are set aside. */
  hugePages: z.strictObject({ setAsideBytes: Bytes, freeBytes: Bytes }).optional(),
  /** Absent while the block server does not say. */
  blocks: z
    .strictObject({
      /** Of packs that lie here whole, and of those parts that were fetched of others. */
      wholeBytes: Bytes,
      fetchedBytes: Bytes,
      downloadedBytes: Bytes,
      readBytes: Bytes,
      writtenBytes: Bytes,
    })
    .optional(),
})
export type NodeMeasures = z.infer<typeof NodeMeasures>

/** All sandboxes of the node (`full`, at the beginning of a session), or those that changed; and what was denied. */
export const SandboxesMessage = z.strictObject({
  type: z.literal('sandboxes'),
  full: z.boolean(),
  sandboxes: z.array(SandboxReport).max(10_000),
  denials: z
    .array(
      z.strictObject({ id: SandboxId, at: z.int(), destination: z.string().max(300), reason: z.string().max(1000) }),
    )
    .max(1000),
  /** Now and then. */
  measures: NodeMeasures.optional(),
})
export type SandboxesMessage = z.infer<typeof SandboxesMessage>
