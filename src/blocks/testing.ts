import { createCipheriv } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Random, seededRandom } from '../kit/random.ts'
import { systemClock } from '../kit/system-clock.ts'
import { BuildId, encodeId } from '../model/ids.ts'
import type { ContentStore, ImageReader } from './content.ts'
import type { Image, Manifest } from './manifest.ts'
import { type LocalContentStore, openContentStore } from './open.ts'

/** What the tests of the content store stand on. */

export async function temporaryDirectory(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'tutti-blocks-'))
  // A process that was not needed may still be leaving.
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true, maxRetries: 20 }) }
}

/** Numbers the stores of a test, so that no two of them draw the same names. */
let opened = 0

export function openTestStore(
  directory: string,
  options: Partial<Parameters<typeof openContentStore>[0]> = {},
): Promise<LocalContentStore> {
  return openContentStore({
    directory,
    clock: systemClock,
    random: seededRandom(`${directory}/${opened++}`),
    threads: 1,
    ...options,
  })
}

export function testBuildId(seed: string): BuildId {
  return BuildId.parse(encodeId(seededRandom(seed).bytes(10)))
}

/** Bytes that are unlike any others, and of which half compress: 4 KiB that do not, 4 KiB that do, and so on. */
export function fresh(random: Random, length: number): Buffer {
  const bytes = Buffer.alloc(length, 'tutti ')
  const stream = createCipheriv('aes-256-ctr', random.bytes(32), random.bytes(16))
  for (let at = 0; at < length; at += 8192) bytes.set(stream.update(Buffer.alloc(Math.min(4096, length - at))), at)
  return bytes
}

/** Stores `content` as the disk of a build, chunk by chunk. */
export async function storeBuild(
  store: ContentStore,
  id: BuildId,
  content: Buffer,
  { chunkBytes = 16 * 1024, parent, reference }: { chunkBytes?: number; parent?: Manifest; reference?: string } = {},
): Promise<Manifest> {
  await using writer = await store.write(parent ? { basedOn: parent } : {})
  const count = Math.ceil(content.length / chunkBytes)
  const ids = await Promise.all(
    Array.from({ length: count }, (_, n) => writer.add(content.subarray(n * chunkBytes, (n + 1) * chunkBytes))),
  )
  const base: ImageReader | undefined = parent && (await store.open(parent.disk, { packs: parent.packs }))
  const disk = await writer.image({ size: content.length, chunkBytes }, (n) => ids[n] as Uint8Array, base)
  const manifest = await writer.publish(diskOnly(id, disk, parent), parent ? { basedOn: parent } : {})
  if (reference) await store.setReference(reference, id)
  return manifest
}

export function diskOnly(
  id: BuildId,
  disk: Image,
  parent?: Manifest,
): Omit<Manifest, 'format' | 'packs' | 'addedBytes'> {
  return {
    id,
    createdAt: 1_800_000_000_000,
    reason: 'template',
    parent: parent?.id ?? null,
    machine: { arch: 'amd64', cpus: 1, memoryMiB: 256 },
    disk,
    snapshot: null,
    defaults: { env: {}, user: 'root', cwd: '/' },
  }
}

/** All bytes of an image. */
export async function readImage(reader: ImageReader): Promise<Buffer> {
  const count = Math.ceil(reader.image.size / reader.image.chunkBytes)
  return Buffer.concat(await Promise.all(Array.from({ length: count }, (_, n) => reader.read(n))))
}

/** The disk of a build. */
export async function readDisk(store: ContentStore, id: BuildId): Promise<Buffer> {
  const manifest = await store.manifest(id)
  return readImage(await store.open(manifest.disk, { packs: manifest.packs, build: id }))
}
