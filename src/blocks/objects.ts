import type { Readable } from 'node:stream'

/**
 * The seam to object storage: named bytes, written whole or not at all. Keys are paths of lower-case letters, digits,
 * dashes, dots and slashes. Where builds lie:
 *
 *     packs/<hash>        chunks, then their index, then a footer
 *     builds/<id>.json    manifests
 *     refs/<name>.json    names of builds: what is reachable from here is kept
 *     gc/condemned.json   what a collection found unreachable, and when
 *
 * Rejects with a Fault: `not_found`, `denied` (credentials), `exhausted` (full), `unavailable` (try again).
 */
export interface ObjectStore {
  /** For people, without credentials: `file:/var/lib/tutti/blocks`, `s3://bucket/prefix`, `gs://bucket/prefix`. */
  readonly url: string
  /** Bytes of an object, or of a range of it; `length` beyond the end is cut. */
  get(key: string, options?: { offset?: number; length?: number; signal?: AbortSignal }): Promise<Buffer>
  /** The last bytes of an object, at most `length`, and its size in bytes; undefined when there is no such object. */
  tail(key: string, length: number): Promise<{ bytes: Buffer; size: number } | undefined>
  /** Size in bytes; undefined when there is no such object. */
  size(key: string): Promise<number | undefined>
  /** Whole or not at all, also for readers at the same time. */
  put(key: string, body: Buffer | (() => Readable), options: { size: number; signal?: AbortSignal }): Promise<void>
  delete(key: string): Promise<void>
  /** All keys that begin so, in order, with size and time of the last change (ms since the epoch). */
  list(prefix: string): AsyncIterable<{ key: string; size: number; changedAt: number }>
}
