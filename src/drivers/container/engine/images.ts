import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { z } from 'zod'
import { neverPulled, pullFault, wrongArchitecture } from '../../../images/faults.ts'
import { formatReference, parseReference, type Reference } from '../../../images/reference.ts'
import { SharedWork } from '../../../images/shared-work.ts'
import type { ImageUse, ObtainOptions } from '../../../images/store.ts'
import type { Clock } from '../../../kit/clock.ts'
import { type EngineClient, EngineError } from './client.ts'

/**
 * The engine's images. It has its own store, which others use too; so we keep note of what we pulled ourselves, and
 * evict only that.
 */
export class EngineImages {
  readonly #options: EngineImagesOptions
  readonly #pulls = new SharedWork<void>()
  readonly #claims = new Map<string, number>()

  constructor(options: EngineImagesOptions) {
    this.#options = options
  }

  async obtain(name: string, options: ObtainOptions): Promise<{ image: EngineImage; release: () => void }> {
    const reference = parseReference(name)
    const text = formatReference(reference)
    const before = await this.inspect(text)
    const fresh = before && (options.pull !== 'always' || reference.digest !== undefined)
    if (!before && options.pull === 'never') throw neverPulled(text)
    if (!fresh) {
      const key = JSON.stringify([text, options.credentials ?? null])
      await this.#pulls.join(key, options, (shared) => this.#pull(reference, { ...options, ...shared }))
    }
    const image = await this.inspect(text)
    if (!image) throw neverPulled(text)
    const { architecture } = this.#options
    if (image.Os !== 'linux' || image.Architecture !== architecture)
      throw wrongArchitecture(text, [image.Architecture], architecture)
    const release = this.#claim(image.Id)
    if (!before || before.Id !== image.Id) await this.#note(text, image.Id)
    await this.#touch(text)
    return { image, release }
  }

  /** Undefined when the engine does not have it. */
  async inspect(name: string): Promise<EngineImage | undefined> {
    try {
      return EngineImage.parse(await this.#options.client.call('GET', `/images/${name}/json`))
    } catch (error) {
      if (error instanceof EngineError && error.status === 404) return undefined
      throw error
    }
  }

  /** Those that we pulled, least recently used first. */
  async list(): Promise<ImageUse[]> {
    const images = new Map<string, ImageUse>()
    for (const file of await readdir(this.#options.directory).catch(() => [])) {
      const note = await this.#readNote(file)
      const image = note && (await this.inspect(note.image))
      if (!note || !image) continue
      const { mtimeMs } = await stat(join(this.#options.directory, file))
      const use = images.get(image.Id) ?? { digest: image.Id, names: [], bytes: image.Size, lastUsedAt: 0 }
      images.set(image.Id, { ...use, names: [...use.names, note.name], lastUsedAt: Math.max(use.lastUsedAt, mtimeMs) })
    }
    return [...images.values()].sort((one, other) => one.lastUsedAt - other.lastUsedAt)
  }

  async evict(budgetBytes: number, inUse: ReadonlySet<string>): Promise<string[]> {
    const images = await this.list()
    let excess = images.reduce((sum, { bytes }) => sum + bytes, 0) - budgetBytes
    const removed: string[] = []
    for (const { digest, names, bytes } of images) {
      if (excess <= 0) break
      if (inUse.has(digest) || this.#claims.has(digest)) continue
      if (!(await this.#remove([...names, digest]))) continue
      for (const name of names) await rm(this.#file(name), { force: true })
      removed.push(digest)
      excess -= bytes
    }
    return removed
  }

  /** The engine refuses what any container uses, be it ours or not. */
  async #remove(names: readonly string[]): Promise<boolean> {
    for (const name of names) {
      try {
        await this.#options.client.call('DELETE', `/images/${name}?force=false`)
      } catch (error) {
        if (!(error instanceof EngineError)) throw error
        if (error.status !== 404) return false
      }
    }
    return true
  }

  async #pull(reference: Reference, { credentials, progress, signal }: ObtainOptions): Promise<void> {
    const { client, clock } = this.#options
    const { registry, repository, tag, digest } = reference
    const image = formatReference(reference)
    progress(`pulling ${image}`)
    const query = new URLSearchParams({ fromImage: `${registry}/${repository}`, tag: digest ?? tag })
    const serveraddress = registry === 'docker.io' ? 'https://index.docker.io/v1/' : registry
    const auth = paddedBase64Url(JSON.stringify({ ...credentials, serveraddress }))
    const headers = credentials ? { 'x-registry-auth': auth } : undefined
    const fail = (output: string) =>
      pullFault({ image, registry, username: credentials?.username, output, gist: output })
    try {
      const answer = await client.open('POST', `/images/create?${query}`, { headers, signal })
      let saidAt = clock.monotonic()
      let error: string | undefined
      for await (const line of createInterface({ input: answer })) {
        const event = parsePullEvent(line)
        error ??= event.error
        if (event.status === undefined || clock.monotonic() - saidAt < 1000) continue
        saidAt = clock.monotonic()
        progress(`pulling ${image}: ${[event.id, event.status, event.progress].filter(Boolean).join(' ')}`)
      }
      signal.throwIfAborted()
      if (error !== undefined) throw fail(error)
    } catch (error) {
      throw error instanceof EngineError ? fail(error.message) : error
    }
  }

  #claim(id: string): () => void {
    this.#claims.set(id, (this.#claims.get(id) ?? 0) + 1)
    return () => {
      const left = (this.#claims.get(id) ?? 1) - 1
      if (left > 0) this.#claims.set(id, left)
      else this.#claims.delete(id)
    }
  }

  async #note(name: string, image: string): Promise<void> {
    await mkdir(this.#options.directory, { recursive: true, mode: 0o700 })
    await writeFile(`${this.#file(name)}.new`, JSON.stringify({ name, image } satisfies ImageNote))
    await rename(`${this.#file(name)}.new`, this.#file(name))
  }

  async #readNote(file: string): Promise<ImageNote | undefined> {
    try {
      return ImageNote.parse(JSON.parse(await readFile(join(this.#options.directory, file), 'utf8')))
    } catch {
      return undefined
    }
  }

  async #touch(name: string): Promise<void> {
    const now = this.#options.clock.now() / 1000
    await utimes(this.#file(name), now, now).catch(() => {})
  }

  #file(name: string): string {
    return join(this.#options.directory, `${createHash('sha256').update(name).digest('hex')}.json`)
  }
}

export interface EngineImagesOptions {
  client: EngineClient
  clock: Clock
  directory: string
  architecture: string
}

const EngineImage = z.object({
  Id: z.string().max(100),
  Architecture: z.string().max(50),
  Os: z.string().max(50),
  Size: z.number().nonnegative(),
  Config: z
    .object({
      WorkingDir: z.string().nullish(),
      Entrypoint: z.array(z.string()).nullish(),
      Cmd: z.array(z.string()).nullish(),
    })
    .nullish(),
})
export type EngineImage = z.infer<typeof EngineImage>

const ImageNote = z.object({ name: z.string(), image: z.string() })
type ImageNote = z.infer<typeof ImageNote>

/** Engines insist on the padding that Node leaves out. */
function paddedBase64Url(text: string): string {
  return Buffer.from(text).toString('base64').replaceAll('+', '-').replaceAll('/', '_')
}

const PullEvent = z.object({
  status: z.string().optional(),
  id: z.string().optional(),
  progress: z.string().optional(),
  error: z.string().optional(),
})

function parsePullEvent(line: string): z.infer<typeof PullEvent> {
  try {
    return PullEvent.parse(JSON.parse(line))
  } catch {
    return {}
  }
}
