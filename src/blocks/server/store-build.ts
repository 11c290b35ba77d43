import { closeSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { Fault } from '../../model/fault.ts'
import type { BuildId } from '../../model/ids.ts'
import type { BuildWriter, ContentStore, ImageReader } from '../content.ts'
import { diskChunkBytes, type Image, type Manifest, memoryChunkBytes } from '../manifest.ts'
import type { Captures } from './captures.ts'
import { asView, type Disks } from './disks.ts'
import type { Memories } from './memories.ts'
import { blockBytes, fetchMissing, fromBase, readView } from './overlay-view.ts'
import type { AnswerOf, RequestOf } from './protocol.ts'
import { storePages } from './store-pages.ts'
import { Window } from './window.ts'

export interface StoreParts {
  content: ContentStore
  disks: Disks
  memories: Memories
  captures: Captures
}

type Request = RequestOf<'store'>

/** Bytes of chunks that are on their way to the content store at once. */
const windowBytes = 16 * 1024 * 1024

/** Makes a build of a disk's epoch, and of memory and device state when there are. Done before: answers what came of it. */
export async function storeBuild(parts: StoreParts, request: Request): Promise<AnswerOf<'store'>> {
  const { content, disks, captures } = parts
  const known = await content.manifest(request.build as BuildId).catch(() => undefined)
  if (known) {
    await content.setReference(request.reference, known.id)
    if (request.snapshot) captures.drop(request.snapshot.capture)
    return answerOf(known)
  }
  const { snapshot } = request
  const open = await disks.view(request.disk.name, request.disk.epoch)
  const memoryBase = snapshot ? baseOf(captures.noteOf(snapshot.capture)) : null
  const basedOn = await ancestors(content, [request.parent, open.disk.build, memoryBase] as (BuildId | null)[])
  await using writer = await content.write(basedOn ? { basedOn } : {})
  const disk = await storeDisk(writer, open)
  const saved = snapshot && {
    memory: await storeMemory(parts, writer, snapshot.capture, memoryBase),
    devices: await writer.blob(await readDevices(snapshot.devices)),
    compat: snapshot.compat,
    guestAgent: snapshot.guestAgent,
    channelToken: snapshot.channelToken,
    prefetch: snapshot.prefetch ?? [],
    ...(snapshot.prefetchDisk ? { prefetchDisk: snapshot.prefetchDisk } : {}),
  }
  const { createdAt, reason, parent, machine, defaults } = request
  const made = await writer.publish(
    {
      id: request.build as BuildId,
      createdAt,
      reason,
      parent: parent as BuildId | null,
      machine,
      disk,
      snapshot: saved,
      defaults,
    },
    basedOn ? { basedOn } : {},
  )
  await content.setReference(request.reference, made.id)
  if (snapshot) captures.keep(snapshot.capture, made.id)
  return answerOf(made)
}

/** The build whose memory is that of the capture wherever nothing was captured. */
function baseOf({ image, over }: ReturnType<Captures['noteOf']>): BuildId | null {
  return over ?? image
}

/** One manifest that stands for all that the build may share chunks with. */
async function ancestors(content: ContentStore, builds: readonly (BuildId | null)[]): Promise<Manifest | undefined> {
  const wanted = [...new Set(builds.filter((build) => build !== null))]
  const manifests = await Promise.all(wanted.map((build) => content.manifest(build)))
  const [first] = manifests
  return first && { ...first, packs: [...new Set(manifests.flatMap(({ packs }) => packs))] }
}

async function storeDisk(writer: BuildWriter, open: Awaited<ReturnType<Disks['view']>>): Promise<Image> {
  const { disk, where, paths } = open
  const files = paths.map((path) => openSync(path, 'r'))
  try {
    const view = asView(disk, where, files)
    const changed = new Map<number, Uint8Array>()
    const window = new Window(windowBytes)
    const perChunk = diskChunkBytes / blockBytes
    for (let number = 0; number * perChunk < where.length; number += 1) {
      if (isUntouched(where, number * perChunk, perChunk)) continue
      const offset = number * diskChunkBytes
      const end = Math.min(offset + diskChunkBytes, disk.size)
      await fetchMissing(view, offset, end)
      await window.run(diskChunkBytes, async () => {
        const bytes = Buffer.allocUnsafe(end - offset)
        readView(view, offset, bytes)
        changed.set(number, await writer.add(bytes))
      })
    }
    await window.settled()
    await addGrownEnd(writer, disk.base?.reader, disk.size, changed)
    return await writer.image(
      { size: disk.size, chunkBytes: diskChunkBytes },
      idsOf(changed, disk.base?.reader),
      disk.base?.reader,
    )
  } finally {
    for (const fd of files) closeSync(fd)
  }
}

/** A base that ended within a chunk has a shorter one there than a disk that goes on. */
async function addGrownEnd(
  writer: BuildWriter,
  base: ImageReader | undefined,
  size: number,
  changed: Map<number, Uint8Array>,
): Promise<void> {
  if (base === undefined || base.image.size >= size || base.image.size % diskChunkBytes === 0) return
  const number = Math.floor(base.image.size / diskChunkBytes)
  if (changed.has(number) || base.isZero(number)) return
  const bytes = Buffer.alloc(Math.min(diskChunkBytes, size - number * diskChunkBytes))
  bytes.set(await base.read(number))
  changed.set(number, await writer.add(bytes))
}

async function storeMemory(
  { content, memories, captures }: StoreParts,
  writer: BuildWriter,
  capture: string,
  base: BuildId | null,
): Promise<Image> {
  const pages = captures.find(capture)
  const manifest = base === null ? undefined : await content.manifest(base)
  const image = manifest?.snapshot?.memory
  const reader = image && manifest && (await content.open(image, { packs: manifest.packs, build: manifest.id }))
  const held = base === null ? undefined : await memories.find(base)
  const size = captures.noteOf(capture).size
  const changed = await storePages(writer, {
    pages,
    size,
    base: reader,
    local: held?.isComplete ? held.local : undefined,
  })
  return writer.image({ size, chunkBytes: memoryChunkBytes }, idsOf(changed, reader), reader)
}

const zeroId = new Uint8Array(32)

function idsOf(
  changed: ReadonlyMap<number, Uint8Array>,
  base: ImageReader | undefined,
): (number: number) => Uint8Array {
  const baseChunks = base ? Math.ceil(base.image.size / base.image.chunkBytes) : 0
  return (number) => changed.get(number) ?? (number < baseChunks && base ? base.id(number) : zeroId)
}

function isUntouched(where: Uint16Array, first: number, count: number): boolean {
  for (let block = first; block < first + count && block < where.length; block += 1)
    if (where[block] !== fromBase) return false
  return true
}

async function readDevices(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (cause) {
    throw new Fault('not_found', `the device state ${path} cannot be read`, { cause })
  }
}

function answerOf({ id, addedBytes, disk }: Manifest): AnswerOf<'store'> {
  return { build: id, addedBytes, disk }
}
