import { createHash } from 'node:crypto'
import { existsSync, renameSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../kit/clock.ts'
import { Fault } from '../model/fault.ts'
import { neverPulled, wrongArchitecture } from './faults.ts'
import { type Credentials, fetchImage } from './fetch.ts'
import { Digest, ImageFacts, readLayout } from './manifest.ts'
import { readLayers, writeAttributes, writeOwners } from './owners.ts'
import { readArchive } from './read-archive.ts'
import { formatReference, parseReference, type Reference } from './reference.ts'
import { lastLine, runTool } from './run-tool.ts'
import { SharedWork } from './shared-work.ts'

/**
 * Images on this node, each unpacked once into a root directory that any number of containers share and none writes to.
 *
 *     refs/<hash>.json         what a name means here: a digest
 *     images/<hex>/            image.json and rootfs/; appears whole, by rename
 *     blobs/sha256/            layers as downloaded, so that images with common layers and broken-off pulls save traffic
 *     pulls/, trash/           work in progress; whatever is there when we start is rubbish
 */
export class ImageStore {
  readonly #directory: string
  readonly #clock: Clock
  readonly #architecture: string
  readonly #authFile: string | undefined
  readonly #pulls = new SharedWork<Image>()
  readonly #unpacks = new SharedWork<void>()
  readonly #known = new Map<string, Image>()
  readonly #claims = new Map<string, number>()
  #working = 0
  #ready: Promise<void> | undefined

  constructor(options: { directory: string; clock: Clock; architecture: string; authFile?: string | undefined }) {
    this.#directory = options.directory
    this.#clock = options.clock
    this.#architecture = options.architecture
    this.#authFile = options.authFile
  }

  /** The image that a name stands for under the given policy, fetched if need be. Release the claim when it is noted. */
  async obtain(name: string, options: ObtainOptions): Promise<{ image: Image; release: () => void }> {
    await this.#whenReady()
    const reference = parseReference(name)
    const text = formatReference(reference)
    for (;;) {
      const here = options.pull === 'always' && reference.digest === undefined ? undefined : await this.#find(text)
      if (!here && options.pull === 'never') throw neverPulled(text)
      const key = JSON.stringify([text, options.credentials ?? null])
      const image = here ?? (await this.#pulls.join(key, options, (shared) => this.#pull(reference, options, shared)))
      const release = this.#claim(image.digest)
      // Between the look and the claim it may have been evicted.
      if (existsSync(image.rootfs)) {
        await this.#touch(image.digest)
        return { image, release }
      }
      release()
    }
  }

  /** An image from a file on this node, read anew each time: `oci-archive:FILE`, `docker-archive:FILE`, `oci:DIRECTORY`. */
  async load(source: string, shared: Shared): Promise<{ image: Image; release: () => void }> {
    await this.#whenReady()
    const image = await this.#bring(source, shared, (layout) =>
      readArchive({ source, layout, architecture: this.#architecture, ...shared }),
    )
    return { image, release: this.#claim(image.digest) }
  }

  /** An image by digest, as a task noted it before the agent was restarted. */
  async get(digest: string): Promise<Image | undefined> {
    const known = this.#known.get(digest)
    if (known) return known
    try {
      const facts = StoredImage.parse(JSON.parse(await readFile(join(this.#at(digest), 'image.json'), 'utf8')))
      const image = { ...facts, rootfs: join(this.#at(digest), 'rootfs') }
      this.#known.set(digest, image)
      return image
    } catch {
      return undefined
    }
  }

  /** What is here, least recently used first. */
  async list(): Promise<ImageUse[]> {
    const names = new Map<string, string[]>()
    for (const file of await readdir(join(this.#directory, 'refs')).catch(() => [])) {
      const ref = await this.#readRef(join(this.#directory, 'refs', file))
      if (ref) names.set(ref.digest, [...(names.get(ref.digest) ?? []), ref.reference])
    }
    const uses: ImageUse[] = []
    for (const hex of await readdir(join(this.#directory, 'images')).catch(() => [])) {
      const digest = `sha256:${hex}`
      const image = await this.get(digest)
      const used = await stat(join(this.#at(digest), 'image.json')).catch(() => undefined)
      if (image && used)
        uses.push({ digest, names: names.get(digest) ?? [], bytes: image.bytes, lastUsedAt: used.mtimeMs })
    }
    return uses.sort((one, other) => one.lastUsedAt - other.lastUsedAt)
  }

  /**
   * Removes until no more than `budgetBytes` are taken: first what only saves downloads, then images by last use; never
   * one in `inUse` or claimed. Says what went.
   */
  async evict({ budgetBytes, inUse }: { budgetBytes: number; inUse: ReadonlySet<string> }): Promise<string[]> {
    await this.#whenReady()
    const images = await this.list()
    const unpacked = images.reduce((sum, { bytes }) => sum + bytes, 0)
    let excess = unpacked + (await sizeOfFiles(this.#blobs())) - budgetBytes
    if (excess > 0) excess -= await this.#dropBlobs(excess)
    const removed: string[] = []
    for (const { digest, bytes } of images) {
      if (excess <= 0) break
      if (inUse.has(digest) || this.#claims.has(digest)) continue
      // In one step with the question above, so that nobody can claim it in between.
      const trash = join(this.#directory, 'trash', digest.slice(7))
      renameSync(this.#at(digest), trash)
      this.#known.delete(digest)
      await rm(trash, { recursive: true, force: true })
      removed.push(digest)
      excess -= bytes
    }
    return removed
  }

  #whenReady(): Promise<void> {
    this.#ready = this.#ready === undefined ? this.#prepare() : this.#ready
    return this.#ready
  }

  async #prepare(): Promise<void> {
    for (const rubbish of ['pulls', 'trash']) await rm(join(this.#directory, rubbish), { recursive: true, force: true })
    for (const part of ['refs', 'images', 'pulls', 'trash', 'blobs/sha256'])
      await mkdir(join(this.#directory, part), { recursive: true, mode: 0o700 })
  }

  async #find(text: string): Promise<Image | undefined> {
    const ref = await this.#readRef(this.#refFile(text))
    return ref && (await this.get(ref.digest))
  }

  async #pull(reference: Reference, { credentials }: ObtainOptions, shared: Shared): Promise<Image> {
    const text = formatReference(reference)
    const architecture = this.#architecture
    const authFile = this.#authFile
    const image = await this.#bring(text, shared, (layout) =>
      fetchImage({ ...shared, clock: this.#clock, reference, credentials, authFile, architecture, layout }),
    )
    await replaceFile(this.#refFile(text), JSON.stringify({ reference: text, digest: image.digest } satisfies Ref))
    return image
  }

  /** Lets an image be written into a layout, and unpacks it unless it is here already. */
  async #bring(text: string, shared: Shared, fetch: (layout: string) => Promise<void>): Promise<Image> {
    const layout = await mkdtemp(join(this.#directory, 'pulls', 'pull-'))
    this.#working += 1
    try {
      await symlink(join(this.#directory, 'blobs'), join(layout, 'blobs'))
      await fetch(layout)
      const facts = await readLayout(layout)
      if (facts.architecture !== this.#architecture || facts.os !== 'linux')
        throw wrongArchitecture(text, [platformOf(facts)], this.#architecture)
      if (!existsSync(this.#at(facts.digest)))
        await this.#unpacks.join(facts.digest, shared, (asked) => this.#unpack(facts, text, layout, asked))
      const image = await this.get(facts.digest)
      if (!image) throw new Fault('unavailable', `image "${text}" was removed while it was being unpacked; try again`)
      return image
    } finally {
      this.#working -= 1
      await rm(layout, { recursive: true, force: true })
    }
  }

  async #unpack(facts: ImageFacts, text: string, layout: string, { progress, signal }: Shared): Promise<void> {
    progress(`unpacking ${text}`)
    const work = await mkdtemp(join(this.#directory, 'pulls', 'unpack-'))
    try {
      const rootfs = join(work, 'rootfs')
      await mkdir(rootfs, { mode: 0o755 })
      const how = process.getuid?.() === 0 ? [] : ['--rootless']
      const result = await runTool('umoci', ['raw', 'unpack', ...how, '--image', `${layout}:image`, rootfs], { signal })
      if (result.code !== 0) throw unpackFault(text, lastLine(result))
      await keepWhatLayersSay(facts, layout, rootfs, { isRoot: how.length === 0, signal })
      const image: StoredImage = { ...facts, bytes: await diskUsage(rootfs, signal) }
      await writeFile(join(work, 'image.json'), JSON.stringify(image))
      // A power cut after the rename must not leave an image with empty files.
      await runTool('sync', ['-f', work], { signal })
      await rename(work, this.#at(facts.digest))
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  }

  /** Oldest first, and none while a pull may be counting on them. */
  async #dropBlobs(excess: number): Promise<number> {
    const files = await Promise.all(
      (await readdir(this.#blobs())).map(async (name) => {
        const path = join(this.#blobs(), name)
        return { path, ...(await statOf(path)) }
      }),
    )
    let freed = 0
    for (const { path, size } of files.sort((one, other) => one.mtimeMs - other.mtimeMs)) {
      if (freed >= excess || this.#working > 0) break
      await rm(path, { force: true })
      freed += size
    }
    return freed
  }

  #claim(digest: string): () => void {
    this.#claims.set(digest, (this.#claims.get(digest) ?? 0) + 1)
    return () => {
      const left = (this.#claims.get(digest) ?? 1) - 1
      if (left > 0) this.#claims.set(digest, left)
      else this.#claims.delete(digest)
    }
  }

  /** The time of last use lives in the file's own times. */
  async #touch(digest: string): Promise<void> {
    const now = this.#clock.now() / 1000
    await utimes(join(this.#at(digest), 'image.json'), now, now).catch(() => {})
  }

  async #readRef(file: string): Promise<Ref | undefined> {
    try {
      return Ref.parse(JSON.parse(await readFile(file, 'utf8')))
    } catch {
      return undefined
    }
  }

  #at(digest: string): string {
    return join(this.#directory, 'images', digest.slice('sha256:'.length))
  }

  #blobs(): string {
    return join(this.#directory, 'blobs', 'sha256')
  }

  #refFile(text: string): string {
    return join(this.#directory, 'refs', `${createHash('sha256').update(text).digest('hex')}.json`)
  }
}

export type PullPolicy = 'missing' | 'always' | 'never'

interface Shared {
  progress: (message: string) => void
  signal: AbortSignal
}

export interface ObtainOptions extends Shared {
  pull: PullPolicy
  credentials: Credentials | undefined
}

const StoredImage = ImageFacts.extend({ bytes: z.number().nonnegative() })
type StoredImage = z.infer<typeof StoredImage>
export type Image = StoredImage & { rootfs: string }

export interface ImageUse {
  digest: string
  names: string[]
  bytes: number
  lastUsedAt: number
}

const Ref = z.object({ reference: z.string(), digest: Digest })
type Ref = z.infer<typeof Ref>

/** Linux goes without saying. */
function platformOf({ os, architecture }: ImageFacts): string {
  return os === 'linux' ? architecture : `${os} ${architecture}`
}

/**
 * Extended attributes are written down, and what an ordinary user cannot give the files as well: then all of them become
 * readable to that user.
 */
async function keepWhatLayersSay(
  { blobs }: ImageFacts,
  layout: string,
  rootfs: string,
  { isRoot, signal }: { isRoot: boolean; signal: AbortSignal },
): Promise<void> {
  // Manifest and config come before the layers.
  const layers = blobs.slice(2).map(({ digest }) => join(layout, 'blobs', 'sha256', digest.slice('sha256:'.length)))
  const { owners, attributes } = await readLayers(layers, signal)
  await writeAttributes(rootfs, attributes)
  if (isRoot) return
  await writeOwners(rootfs, owners)
  await runTool('chmod', ['-R', 'u+rwX', rootfs], { signal })
}

function unpackFault(text: string, said: string): Fault {
  if (/no space left/i.test(said))
    return new Fault(
      'exhausted',
      `the disk is full: cannot unpack image "${text}"; free space or lower the image budget`,
    )
  return new Fault('invalid', `image "${text}" cannot be unpacked: ${said}`)
}

async function diskUsage(directory: string, signal: AbortSignal): Promise<number> {
  const { stdout } = await runTool('du', ['-sk', directory], { signal })
  return Number.parseInt(stdout, 10) * 1024 || 0
}

async function sizeOfFiles(directory: string): Promise<number> {
  const sizes = await Promise.all((await readdir(directory)).map((name) => statOf(join(directory, name))))
  return sizes.reduce((sum, { size }) => sum + size, 0)
}

async function statOf(path: string): Promise<{ size: number; mtimeMs: number }> {
  return stat(path).catch(() => ({ size: 0, mtimeMs: 0 }))
}

/** Readers see the old file or the new one. */
async function replaceFile(path: string, text: string): Promise<void> {
  await writeFile(`${path}.new`, text, { mode: 0o600 })
  await rename(`${path}.new`, path)
}
