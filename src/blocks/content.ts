import type { BuildId } from '../model/ids.ts'
import type { Image, Manifest } from './manifest.ts'

/**
 * Chunks by hash, and the builds that are made of them: a directory of this machine, and behind it, when there is one, an
 * object store from which missing chunks are fetched as they are needed. Everything that is read is verified.
 * Rejects with a Fault: `not_found` (no such build), `unavailable` (its store cannot be reached), `exhausted` (disk full),
 * `conflict` with the words "corrupt" or "missing" and the chunk for bytes that are not what their hash says.
 */
export interface ContentStore {
  /** The chunk's bytes; do not change them. `id` is the 32 bytes of its hash; `build` is for the words of a Fault. */
  chunk(id: Uint8Array, options?: { packs?: readonly string[]; build?: BuildId; signal?: AbortSignal }): Promise<Buffer>
  manifest(id: BuildId): Promise<Manifest>
  /** Reads an image's map so that chunks can be found by number. */
  open(image: Image, options: { packs: readonly string[]; build?: BuildId }): Promise<ImageReader>
  /**
   * Begins a build. Nothing of it is seen by anybody before `publish`. Chunks that packs of `basedOn` hold are not stored
   * again even where these packs lie in the object store only.
   */
  write(options?: { basedOn?: Manifest }): Promise<BuildWriter>
  /** Names what must be kept; a build without a name that leads to it is removed by the next collection. */
  setReference(name: string, build: BuildId): Promise<void>
  reference(name: string): Promise<BuildId | undefined>
  deleteReference(name: string): Promise<void>
}

export interface ImageReader {
  readonly image: Image
  /** The 32 bytes of the id of chunk `number`; all zero for a chunk of zeros. */
  id(number: number): Uint8Array
  isZero(number: number): boolean
  /** Whether all of it can be read without asking an object store. */
  isHere(): boolean
  /** Chunk `number` decompressed and verified; zeros for a zero chunk. */
  read(number: number, options?: { signal?: AbortSignal }): Promise<Buffer>
  /** Brings chunks here from the object store, in the order given, without reading them; zero ones cost nothing. */
  prefetch(numbers: readonly number[], options?: { signal?: AbortSignal }): Promise<void>
}

/** Dispose without `publish` and nothing stays but what garbage collection finds. */
export interface BuildWriter extends AsyncDisposable {
  /**
   * Stores a chunk unless it is known, and returns its id; zeros are not stored. The bytes may be used again by the
   * caller once the promise resolves. Many may be under way at once: hashing and compressing happen on other threads.
   */
  add(bytes: Uint8Array): Promise<Uint8Array>
  /** Writes map pages. `ids(number)` gives the 32 bytes of each chunk; pages equal to those of `base` cost nothing. */
  image(
    shape: { size: number; chunkBytes: number },
    ids: (number: number) => Uint8Array,
    base?: ImageReader,
  ): Promise<Image>
  /** Small bytes as an image of their own. */
  blob(bytes: Uint8Array): Promise<Image>
  /**
   * Makes the build real, in this order and each step durable before the next: packs, map pages, manifest. `packs` of
   * the given parent stay referenced where its chunks are used.
   */
  publish(
    manifest: Omit<Manifest, 'format' | 'packs' | 'addedBytes'>,
    options?: { basedOn?: Manifest },
  ): Promise<Manifest>
}
