import type { Random } from '../../kit/random.ts'
import { Fault } from '../../model/fault.ts'
import type { BuildWriter, ImageReader } from '../content.ts'
import type { Files } from '../files.ts'
import { fromHash, isZero, isZeroId, toHash } from '../hash.ts'
import { blobChunkBytes, type Image, Manifest, pageEntries, zeroHash } from '../manifest.ts'
import { buildKey } from '../objects/keys.ts'
import type { ObjectStore } from '../objects.ts'
import type { PackIndex } from '../pack.ts'
import { lookUpBytes, takeTurns } from '../turns.ts'
import { chunkPipeline, type Slabs } from './chunk-pipeline.ts'
import { chunkCount, pageBytes } from './image-reader.ts'
import type { LocalPacks } from './local-packs.ts'
import { writePacks } from './pack-writer.ts'
import type { Workers } from './workers.ts'

/**
 * Makes a build: chunks go to packs of its own as they come, map pages to another pack, and the manifest comes last. What
 * is in these packs is known to other writers only once they are durable.
 */
export function makeBuildWriter({
  directory,
  packs,
  objects,
  workers,
  slabs,
  files,
  random,
  basedOn: startedFrom,
  condemned,
  openPacks,
}: {
  directory: string
  packs: LocalPacks
  objects: ObjectStore
  workers: Workers
  slabs: Slabs
  files: Files
  random: Random
  basedOn: Manifest | undefined
  /** Packs that a collection is about to remove: nothing new may rely on them. */
  condemned: ReadonlySet<string>
  /** Brings the indexes of packs here, or of those that hold the same now; gives the packs that it has brought. */
  openPacks: (names: readonly string[]) => Promise<readonly string[]>
}): BuildWriter {
  const mayUse = (parents: ReadonlySet<string>) => (number: number) => {
    const pack = packs.byNumber(number)
    if (!pack) return false
    return parents.has(pack.index.name) || (!pack.have && !condemned.has(pack.index.name))
  }
  const usable = mayUse(new Set(startedFrom?.packs))
  const newPacks: PackIndex[] = []
  const stream = () => {
    const writer = writePacks({
      directory,
      random,
      files,
      onSealed: (pack) => {
        newPacks.push(pack)
        packs.add(pack, `${directory}/packs`, 'whole')
      },
    })
    const isKnown = (id: Uint8Array) => packs.chunks.first(id, usable) !== undefined
    return { writer, chunks: chunkPipeline({ workers, slabs, isKnown, append: writer.append }) }
  }
  const data = stream()
  const pages = stream()
  const adding = new Set<Promise<unknown>>()
  /** The maps made here, for finding out which packs hold what they name. */
  const maps = new Map<string, Buffer[]>()
  let state: 'open' | 'published' | 'dropped' = 'open'
  let failure: unknown

  const track = <T>(work: Promise<T>): Promise<T> => {
    adding.add(work)
    work.then(
      () => adding.delete(work),
      (error) => {
        failure ??= error
        adding.delete(work)
      },
    )
    return work
  }
  const settled = async (): Promise<void> => {
    while (adding.size > 0) await Promise.allSettled(adding)
    if (failure !== undefined) throw failure
  }
  const checkOpen = (): void => {
    if (state !== 'open') throw new Fault('conflict', `this build is ${state} already`)
  }

  const add = (bytes: Uint8Array): Promise<Uint8Array> => {
    checkOpen()
    return track(data.chunks.add(bytes))
  }

  const image: BuildWriter['image'] = async (shape, ids, base) => {
    checkOpen()
    const made = await track(writeMap(shape, ids, base, pages.chunks.add))
    maps.set(keyOfImage(made.image), made.pages)
    return made.image
  }

  /** The packs that hold what the images name: those made here are added by the caller. */
  const packsBehind = async (images: readonly Image[], basedOn: readonly string[]): Promise<Set<string>> => {
    const parents = new Set([...basedOn, ...(startedFrom?.packs ?? [])])
    const accepts = mayUse(parents)
    const own = new Set(newPacks.map(({ name }) => name))
    const used = new Set<string>()
    const numbers = new Set<number>()
    const mayGoOn = takeTurns()
    const locate = (id: Uint8Array, what: string): void => {
      let acceptable: number | undefined
      const found = packs.chunks.first(id, (number) => {
        if (numbers.has(number)) return true
        if (acceptable === undefined && accepts(number)) acceptable = number
        return false
      })
      if (found) return
      const name = acceptable === undefined ? undefined : packs.byNumber(acceptable)?.index.name
      if (acceptable === undefined || !name)
        throw new Fault('conflict', `${what} ${toHash(id)} is missing: no pack of this store holds it`)
      numbers.add(acceptable)
      if (!own.has(name)) used.add(name)
    }
    for (const name of own) {
      const pack = packs.byName(name)
      if (pack) numbers.add(pack.number)
    }
    for (const each of images) {
      const map = maps.get(keyOfImage(each))
      if (!map) {
        // An image that was taken over as it is: its chunks lie where its build's chunks lie.
        for (const name of parents) used.add(name)
        continue
      }
      for (const hash of each.pages) if (hash !== zeroHash) locate(fromHash(hash), 'map page')
      for (const page of map) {
        await mayGoOn(pageEntries * lookUpBytes)
        for (let at = 0; at < page.length; at += 32) {
          const id = page.subarray(at, at + 32)
          if (!isZeroId(id)) locate(id, 'chunk')
        }
      }
    }
    return used
  }

  return {
    add,
    image,
    async blob(bytes) {
      const shape = { size: bytes.byteLength, chunkBytes: blobChunkBytes }
      const ids = await Promise.all(
        Array.from({ length: chunkCount(shape) }, (_, n) =>
          add(bytes.subarray(n * blobChunkBytes, (n + 1) * blobChunkBytes)),
        ),
      )
      return image(shape, (number) => ids[number] as Uint8Array)
    },
    async publish(manifest, { basedOn } = {}) {
      checkOpen()
      await settled()
      await data.writer.finish()
      await pages.writer.finish()
      const parents = await openPacks(basedOn?.packs ?? [])
      const images = [
        manifest.disk,
        ...(manifest.snapshot ? [manifest.snapshot.memory, manifest.snapshot.devices] : []),
      ]
      const used = await packsBehind(images, parents)
      for (const { name } of newPacks) used.add(name)
      const addedBytes = newPacks.reduce((sum, { size }) => sum + size, 0)
      const whole = Manifest.parse({ format: 1, ...manifest, packs: [...used], addedBytes })
      const body = Buffer.from(JSON.stringify(whole))
      await objects.put(buildKey(whole.id), body, { size: body.length })
      state = 'published'
      return whole
    },
    async [Symbol.asyncDispose]() {
      if (state === 'open') state = 'dropped'
      await settled().catch(() => {})
      await data.writer.drop()
      await pages.writer.drop()
    },
  }
}

async function writeMap(
  { size, chunkBytes }: { size: number; chunkBytes: number },
  ids: (number: number) => Uint8Array,
  base: ImageReader | undefined,
  add: (page: Uint8Array) => Promise<Uint8Array>,
): Promise<{ image: Image; pages: Buffer[] }> {
  const count = chunkCount({ size, chunkBytes })
  const baseCount = base ? chunkCount(base.image) : 0
  const hashes: (string | Promise<Uint8Array>)[] = []
  const pages: Buffer[] = []
  const mayGoOn = takeTurns()
  for (let first = 0; first < count; first += pageEntries) {
    await mayGoOn(pageEntries * lookUpBytes)
    const page = Buffer.alloc(pageBytes)
    const last = Math.min(count, first + pageEntries)
    let isSame = base?.image.chunkBytes === chunkBytes && last - first === Math.min(pageEntries, baseCount - first)
    for (let number = first; number < last; number++) {
      const id = ids(number)
      page.set(id, (number - first) * 32)
      if (isSame && base && Buffer.compare(id, base.id(number)) !== 0) isSame = false
    }
    const known = isSame ? base?.image.pages[first / pageEntries] : undefined
    if (isZero(page)) hashes.push(zeroHash)
    else {
      pages.push(page)
      hashes.push(known ?? add(page))
    }
  }
  const done = await Promise.all(hashes)
  const image = { size, chunkBytes, pages: done.map((hash) => (typeof hash === 'string' ? hash : toHash(hash))) }
  return { image, pages }
}

function keyOfImage({ size, chunkBytes, pages }: Image): string {
  return `${size}/${chunkBytes}/${pages.join()}`
}
