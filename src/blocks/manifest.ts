import { z } from 'zod'
import { BuildId } from '../model/ids.ts'
import { MachineShape } from '../model/sandbox.ts'

/**
 * A build: one immutable snapshot of a machine, or only of its disk. A manifest names everything that the build consists
 * of by the hash of its content; so two builds share whatever is the same in both, there are no chains of ancestors to
 * walk, and copying, comparing and collecting are operations on sets.
 *
 *     reference (a name) → manifest (JSON, named by the build's id)
 *                            └ image (disk, memory, device state): size, chunk size, map pages
 *                                 └ map page: 1,024 chunk ids of 32 bytes, itself a chunk
 *                                      └ chunk: bytes, compressed, in a pack
 */

/** SHA-256 of a chunk's uncompressed bytes, hex. In maps and on hot paths the 32 bytes themselves. */
export const ChunkHash = z.string().regex(/^[0-9a-f]{64}$/)
/** Stands for a chunk of zeros, which is never stored. */
export const zeroHash = '0'.repeat(64)

/** Chunk ids in one map page. */
export const pageEntries = 1024
export const diskChunkBytes = 64 * 1024
export const memoryChunkBytes = 16 * 1024
/** Device state and other small blobs. */
export const blobChunkBytes = 64 * 1024

/** Bytes by content: a disk, a memory, a device state. The last chunk of an image may be shorter than the others. */
export const Image = z.strictObject({
  /** Bytes. */
  size: z
    .int()
    .nonnegative()
    .max(2 ** 44),
  chunkBytes: z
    .int()
    .min(4096)
    .max(2 ** 22),
  /** Hashes of the map pages in order; `zeroHash` for a page without anything but zeros. */
  pages: z.array(ChunkHash).max(2 ** 20),
})
export type Image = z.infer<typeof Image>

/** How things run in a sandbox unless its creator says otherwise; from the image and the recipe. */
export const Defaults = z.strictObject({
  env: z.record(z.string().max(255), z.string().max(32_768)),
  user: z.string().max(64),
  cwd: z.string().max(4096),
  /** A command line that succeeds in a machine that is ready, and may be run at any time. */
  ready: z.string().max(65_536).optional(),
})
export type Defaults = z.infer<typeof Defaults>

export const Manifest = z.strictObject({
  format: z.literal(1),
  id: BuildId,
  /** Ms since the epoch. */
  createdAt: z.int(),
  /** Why it was made: `template` by a recipe, `layer` on the way there, `pause` and `snapshot` of a sandbox. */
  reason: z.enum(['template', 'layer', 'pause', 'snapshot']),
  /** The build that it began from, for people; nothing of it is needed to read this one. */
  parent: BuildId.nullable(),
  machine: MachineShape,
  disk: Image,
  /** Absent in a build of a disk only, which starts by booting. */
  snapshot: z
    .strictObject({
      memory: Image,
      /** State of the devices, as the VMM wrote it. */
      devices: Image,
      /** What must be equal for another VMM to take it: kind, version, machine type, CPU model, accelerator, kernel. */
      compat: z.string().max(500),
      /** Version of the guest agent that lives in the memory. */
      guestAgent: z.string().max(50),
      /** What the next connection to the guest agent opens with; see guest/PROTOCOL.md. */
      channelToken: z.string().max(64),
      /** Chunks of memory in the order in which a fresh clone first touched them; fetched first when they are remote. */
      prefetch: z.array(z.int().nonnegative()).max(2 ** 20),
      /** Chunks of the disk that it read meanwhile. */
      prefetchDisk: z
        .array(z.int().nonnegative())
        .max(2 ** 20)
        .optional(),
    })
    .nullable(),
  defaults: Defaults,
  /** Packs that hold its chunks and map pages; the first of them has what is wanted first, where one was made for that. */
  packs: z.array(ChunkHash).max(100_000),
  /** Bytes that this build added to the store it was made in, compressed. */
  addedBytes: z.int().nonnegative(),
})
export type Manifest = z.infer<typeof Manifest>
