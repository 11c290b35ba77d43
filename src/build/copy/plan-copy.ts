import { posix } from 'node:path'
import { Fault } from '../../model/fault.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import type { ContextEntry } from '../../recipe/context/tree.ts'

/** Something to be in the guest after a COPY, in the order in which it is made. */
export interface Target<E extends ContextEntry = ContextEntry> {
  /** Absolute. */
  path: string
  /** What it is a copy of; undefined for a directory on the way, which is made when it is missing. */
  entry: E | undefined
  /** A directory that keeps what it is when it is there. */
  onlyIfMissing: boolean
}

export interface CopyPlace {
  /** As written; relative to `cwd`. */
  to: string
  cwd: string
  /** What is at a path in the guest, links followed. */
  what(path: string): Promise<'file' | 'directory' | undefined>
}

/**
 * Where everything goes, by Docker's rules (https://docs.docker.com/reference/dockerfile/#copy):
 *
 *   source      target                          becomes
 *   file        ends with / or is a directory   target/name
 *   file        anything else                   target
 *   directory   any                             its contents in target
 *   several     must end with / or be a directory
 *
 * What is there already stays unless something of the same path is copied; a directory is never replaced by a file.
 */
export async function planCopy<E extends ContextEntry>(
  sources: readonly Selected<E>[],
  { to, cwd, what }: CopyPlace,
): Promise<Target<E>[]> {
  const target = posix.resolve('/', cwd, to)
  const there = await what(target)
  const meansDirectory = to === '' || /(^|\/)\.{0,2}$/.test(to)
  const holdsMany = sources.length > 1 || sources.some(({ found }) => found.kind === 'directory')
  if (there === 'file' && (meansDirectory || holdsMany)) throw notDirectory(target)
  if (sources.length > 1 && !meansDirectory && there !== 'directory')
    throw new Fault('invalid', `several files go into a directory, and "${to}" does not end with "/"`)
  const isDirectory = meansDirectory || there === 'directory' || holdsMany
  const targets: Target<E>[] = []
  const above = isDirectory ? target : posix.dirname(target)
  for (const path of ancestors(above)) targets.push({ path, entry: undefined, onlyIfMissing: true })
  // A directory that is made for the contents of another is like that one.
  const [first] = sources
  const made = targets.at(-1)
  if (made && sources.length === 1 && first?.found.kind === 'directory') made.entry = first.found.self
  for (const { name, found } of sources) {
    if (found.kind === 'file') {
      const path = isDirectory ? posix.join(target, name) : target
      if (path !== target && (await what(path)) === 'directory')
        throw new Fault('invalid', `cannot copy file "${name}" to "${path}", which is a directory`)
      targets.push({ path, entry: found.entry, onlyIfMissing: false })
    } else
      for (const { below, entry } of found.entries)
        targets.push({ path: posix.join(target, below), entry, onlyIfMissing: false })
  }
  return targets
}

/** `/a`, `/a/b`, `/a/b/c`. */
function ancestors(path: string): string[] {
  const parts = path.split('/').filter((part) => part !== '')
  return parts.map((_, at) => `/${parts.slice(0, at + 1).join('/')}`)
}

function notDirectory(path: string): Fault {
  return new Fault('invalid', `"${path}" is a file in the image, and what is copied needs a directory there`)
}
