/** A file of a build context: what COPY may take. Owners are not kept, as in Docker; times are, and count for nothing. */
export interface ContextEntry {
  /** Below the context, with slashes, without `.` and `..`. */
  path: string
  type: 'file' | 'directory' | 'link'
  mode: number
  /** Bytes of a file, 0 for others. */
  size: number
  /** Seconds since the epoch. */
  changedAt: number
  /** Where a link points. */
  target?: string
}

/** By path; every directory above an entry is there too. */
export type ContextTree<E extends ContextEntry = ContextEntry> = ReadonlyMap<string, E>

/** The same order on every machine. */
export function byPath(a: { path: string }, b: { path: string }): number {
  return Buffer.compare(Buffer.from(a.path), Buffer.from(b.path))
}
