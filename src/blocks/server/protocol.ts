import { z } from 'zod'
import { BuildId } from '../../model/ids.ts'
import { MachineShape } from '../../model/sandbox.ts'
import { Defaults, Image, Manifest } from '../manifest.ts'

/**
 * The block server: a process of its own for each node that holds the data of sandboxes, so that the agent may die and its
 * event loop never stands between a guest and its disk. It serves disks over NBD on Unix sockets, holds memory images,
 * and takes snapshots apart into chunks. The agent asks it over a Unix socket: one JSON request a line, answered by id in
 * any order, `{"id","ok":…}` or `{"id","fault":{"code","message"}}`. Every request may be sent again after a crash of
 * either side and then finds what the first one did.
 */

/** One more whenever requests, answers, or what lies on disk and in sockets is not what it was. */
export const blockServerVersion = 3

const Name = z.string().regex(/^[0-9a-z-]{1,64}$/)
const Path = z.string().max(4096)
const Condemned = z.strictObject({ builds: z.array(BuildId), packs: z.array(z.string()), bytes: z.number() })
const Repacked = z.strictObject({
  packs: z.array(z.string()),
  bytes: z.number(),
  made: z.array(z.string()),
  madeBytes: z.number(),
  builds: z.array(BuildId),
  keptBytes: z.number(),
  unusedBytes: z.number(),
  unusedBytesAfter: z.number(),
  problems: z.array(z.string()),
})

export const requests = {
  /**
   * A disk for one VM: a build's disk, or an empty one of `size`, under a copy-on-write overlay of its own. Answers with the
   * socket to give to the VMM (export name empty). Opening an export that is open answers the same again.
   */
  openDisk: z.strictObject({
    name: Name,
    from: z.union([z.strictObject({ build: BuildId }), z.strictObject({ size: z.int() })]),
    /** Grow the disk to this size; bytes beyond the build's are zeros. */
    size: z.int().optional(),
  }),
  /**
   * Ends the disk's current epoch, at once: what the guest has written until now belongs to it, what it writes from now on
   * does not. The caller has stopped the VM and its requests have been answered. Answers with the epoch's number.
   */
  cutDisk: z.strictObject({ name: Name }),
  /** Ends the export, and removes its overlay. */
  closeDisk: z.strictObject({ name: Name }),
  /**
   * The memory image of a build, for the VMM to map privately: `path` to open, `size`, and `sealed` when nobody can change
   * it. With `lazy`, a file that fetches its pages as they are touched, unless all of them are on this machine; with
   * `ifHere`, `not_found` unless they are. Held until released by every holder.
   */
  openMemory: z.strictObject({
    build: BuildId,
    holder: Name,
    lazy: z.boolean().optional(),
    ifHere: z.boolean().optional(),
  }),
  releaseMemory: z.strictObject({ build: BuildId, holder: Name }),
  /**
   * Empty, writable memory for a machine that boots: it is the machine's memory, and is captured with `build: null`. With
   * `mayBeHuge` in huge pages, where enough that were set aside are free.
   */
  newMemory: z.strictObject({ name: Name, size: z.int().positive(), mayBeHuge: z.boolean().optional() }),
  closeMemory: z.strictObject({ name: Name }),
  /** Lets go of every memory image that the holder has, and of the memory of that name. */
  releaseHolder: z.strictObject({ holder: Name }),
  /**
   * Copies, from the stopped process `pid`, the pages of the mapping of the memory image that differ from it; answers as
   * soon as they are copied and the VM may go on or go away. `capture` names the copy for `store`.
   */
  captureMemory: z.strictObject({
    capture: Name,
    pid: z.int().positive(),
    /** What the process mapped, as answered by `openMemory`, and the build that it is the memory of. */
    path: Path,
    build: BuildId.nullable(),
    /** The build whose difference was placed for the process, which may have mapped it over the image: then what is copied differs from that. */
    over: BuildId.nullable().optional(),
    size: z.int(),
    /** The device state has all of the memory inside, so that none of it is to be copied. */
    isInDevices: z.boolean().optional(),
  }),
  /**
   * Places the pages by which the memory of `build` differs from that of `base` at the path `at`, and their list at `at`.runs,
   * for a VMM to map them over the image of `base`; see native/memory-layers.c. They are the caller's to remove.
   */
  placeDifference: z.strictObject({ build: BuildId, base: BuildId, at: Path }),
  /** Puts a build's memory where it differs from `base` into the private mapping of the process `pid`, before it is restored. */
  applyMemory: z.strictObject({
    pid: z.int().positive(),
    path: Path,
    base: BuildId,
    build: BuildId,
    size: z.int().positive(),
  }),
  /** Makes a build of a disk's epoch (with all epochs before it) and, when given, of captured memory and device state. */
  store: z.strictObject({
    build: BuildId,
    reason: z.enum(['template', 'layer', 'pause', 'snapshot']),
    parent: BuildId.nullable(),
    createdAt: z.int(),
    machine: MachineShape,
    defaults: Defaults,
    disk: z.strictObject({ name: Name, epoch: z.int() }),
    snapshot: z
      .strictObject({
        capture: Name,
        /** File with the device state. */
        devices: Path,
        compat: z.string().max(500),
        guestAgent: z.string().max(50),
        channelToken: z.string().max(64),
        prefetch: z
          .array(z.int().nonnegative())
          .max(2 ** 20)
          .optional(),
        prefetchDisk: z
          .array(z.int().nonnegative())
          .max(2 ** 20)
          .optional(),
      })
      .nullable(),
    reference: z.string().max(200),
  }),
  /** Drops a capture that is not to be stored. */
  dropCapture: z.strictObject({ capture: Name }),
  /** Chunks of the memory image that the process touched so far: what to prefetch for the next of its kind. */
  touched: z.strictObject({ pid: z.int().positive(), path: Path, size: z.int() }),
  /** Chunks of the build's disk that this disk, or another one of the same build, has read since the build was opened. */
  touchedDisk: z.strictObject({ name: Name }),
  /** Writes a build's device state to a file. */
  devices: z.strictObject({ build: BuildId, path: Path }),
  manifest: z.strictObject({ build: BuildId }),
  /** Makes a build of the disk in a file, such as one that was just made from an image. */
  importDisk: z.strictObject({
    file: Path,
    build: BuildId,
    createdAt: z.int(),
    machine: MachineShape,
    defaults: Defaults,
    reference: z.string().max(200),
  }),
  reference: z.strictObject({ name: z.string().max(200) }),
  setReference: z.strictObject({ name: z.string().max(200), build: BuildId }),
  /** Removes a name; what only it led to is freed by the next collection. */
  deleteReference: z.strictObject({ name: z.string().max(200) }),
  /** Removes what no reference leads to; see src/blocks/operations/collect.ts, and repack.ts for `maxUnused`. */
  collect: z.strictObject({
    graceMs: z.int().nonnegative().optional(),
    layerAgeMs: z.int().nonnegative().optional(),
    maxUnused: z.number().min(0).max(1).optional(),
    dryRun: z.boolean().optional(),
  }),
  /** Makes a build of packs that somebody has copied into the content directory; `conflict` when one is not there. */
  adopt: z.strictObject({ manifest: Manifest, reference: z.string().max(200) }),
  /** What is open, for adoption after the agent's restart, and what it costs. */
  list: z.strictObject({}),
  /** How much of the disk chunks take, and what went through this server since its start. */
  usage: z.strictObject({}),
  /**
   * Makes room when packs take more than `highBytes`: the coldest go until `lowBytes` are left; never the only copy, nor
   * what a disk or a memory that is open is of.
   */
  trim: z.strictObject({ highBytes: z.number().nonnegative(), lowBytes: z.number().nonnegative() }),
  /** Ends the server once this is answered. Disks that are open are served again by the next one. */
  stop: z.strictObject({}),
} as const

export const answers = {
  openDisk: z.strictObject({ socket: Path, size: z.int() }),
  cutDisk: z.strictObject({ epoch: z.int() }),
  closeDisk: z.strictObject({}),
  openMemory: z.strictObject({
    path: Path,
    size: z.int(),
    sealed: z.boolean(),
    lazy: z.boolean(),
  }),
  releaseMemory: z.strictObject({}),
  newMemory: z.strictObject({ path: Path, size: z.int() }),
  closeMemory: z.strictObject({}),
  releaseHolder: z.strictObject({}),
  captureMemory: z.strictObject({ bytes: z.int() }),
  placeDifference: z.strictObject({}),
  applyMemory: z.strictObject({ bytes: z.int() }),
  store: z.strictObject({ build: BuildId, addedBytes: z.int(), disk: Image }),
  dropCapture: z.strictObject({}),
  touched: z.strictObject({ chunks: z.array(z.int().nonnegative()) }),
  touchedDisk: z.strictObject({ chunks: z.array(z.int().nonnegative()) }),
  devices: z.strictObject({ bytes: z.int() }),
  manifest: z.strictObject({ manifest: Manifest }),
  importDisk: z.strictObject({ manifest: Manifest }),
  reference: z.strictObject({ build: BuildId.nullable() }),
  setReference: z.strictObject({}),
  deleteReference: z.strictObject({}),
  collect: z.strictObject({
    isDryRun: z.boolean(),
    references: z.int(),
    kept: z.strictObject({ builds: z.int(), packs: z.int(), bytes: z.number() }),
    waiting: Condemned,
    removed: Condemned,
    /** Absent from servers of earlier versions, which go on until they end. */
    layers: z.strictObject({ kept: z.int(), removed: z.array(z.string()) }).optional(),
    repacked: Repacked.optional(),
    problems: z.array(z.string()),
  }),
  adopt: z.strictObject({}),
  list: z.strictObject({
    disks: z.array(
      z.strictObject({ name: Name, build: BuildId.nullable(), size: z.int(), epoch: z.int(), overlayBytes: z.int() }),
    ),
    memories: z.array(
      z.strictObject({
        build: BuildId,
        holders: z.array(Name),
        bytes: z.int(),
        /** Of these bytes, those that have arrived. */
        fetchedBytes: z.int(),
        /** Why a part of it that somebody waited for could not be brought. */
        fault: z.string().nullable(),
      }),
    ),
    captures: z.array(Name),
    /** Memories of machines that boot. */
    newMemories: z.array(z.strictObject({ name: Name, size: z.int(), isHuge: z.boolean() })),
    /** The object store behind this machine, as it was given. */
    upstream: z.string().nullable(),
    /** Builds that are yet to be brought there. */
    uploads: z.array(BuildId),
    /** How memory is held and captured here; found out when the server started. */
    method: z.strictObject({
      memory: z.enum(['memfd', 'file']),
      capture: z.enum(['pagemap', 'compare', 'none']),
      lazy: z.enum(['fuse', 'none']),
    }),
    pid: z.int(),
    version: z.int(),
  }),
  usage: z.strictObject({
    /** On disk, of whole packs and of those parts that were fetched of others. */
    bytes: z.number(),
    /** Of them, in packs that were fetched. */
    fetchedBytes: z.number(),
    /** From the object store behind this machine. */
    downloadedBytes: z.number(),
    /** By machines, of their disks. */
    readBytes: z.number(),
    writtenBytes: z.number(),
  }),
  trim: z.strictObject({ bytesBefore: z.number(), bytesAfter: z.number(), packs: z.int() }),
  stop: z.strictObject({}),
} as const

export type RequestName = keyof typeof requests
export type RequestOf<N extends RequestName> = z.input<(typeof requests)[N]>
/** As the server has parsed it. */
export type ParsedRequest<N extends RequestName> = z.infer<(typeof requests)[N]>
export type AnswerOf<N extends RequestName> = z.infer<(typeof answers)[N]>

/** The agent's end; rejects with the server's Fault, or `unavailable` when the server is gone. */
export interface BlockServer extends AsyncDisposable {
  /** Settles when the server has gone away, or this was disposed of. */
  readonly gone?: Promise<void>
  ask<N extends RequestName>(name: N, request: RequestOf<N>, options: { signal: AbortSignal }): Promise<AnswerOf<N>>
}
