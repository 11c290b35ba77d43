import { posix } from 'node:path'
import { Fault } from '../../model/fault.ts'
import { isPattern, matchPattern } from './match-pattern.ts'
import { byPath, type ContextEntry, type ContextTree } from './tree.ts'

/** What one source of a COPY names: a file, or a directory whose contents are meant, with everything below it. */
export interface Selected<E extends ContextEntry = ContextEntry> {
  /** Its own name, which a file keeps in a target directory. */
  name: string
  /** Where it was found, and what it was asked for by; absent for what has no place, such as a URL. */
  path?: string
  source?: string
  /** A file; or what lies in a directory, by its path from there, and the directory itself where it is known. */
  found: { kind: 'file'; entry: E } | { kind: 'directory'; entries: { below: string; entry: E }[]; self?: E }
}

/** What a source stands for in a context; an empty list when it names nothing. A link that is named is followed. */
export function selectSource<E extends ContextEntry>(tree: ContextTree<E>, source: string): Selected<E>[] {
  const path = cleanSource(source)
  if (path === '') return [{ name: '', path, source, found: { kind: 'directory', entries: entriesBelow(tree, '') } }]
  const exact = isPattern(path) ? undefined : select(tree, path)
  if (exact) return [{ ...exact, path, source }]
  const pattern = matchPattern(path)
  if (!pattern) throw new Fault('invalid', `"${source}" is not a pattern: a bracket or a backslash in it has no end`)
  const depth = path.split('/').length
  const matches = [...tree.values()].filter(
    (entry) => entry.path.split('/').length === depth && pattern.test(entry.path),
  )
  return matches.sort(byPath).flatMap((entry) => {
    const found = select(tree, entry.path)
    return found ? [{ ...found, path: entry.path, source }] : []
  })
}

/** A path below the context, without `/` around it; empty for the context itself. */
export function cleanSource(source: string): string {
  const path = posix.normalize(source.replace(/^\/+/, '') || '.').replace(/\/+$/, '')
  if (path === '..' || path.startsWith('../'))
    throw new Fault('invalid', `"${source}" lies outside of the build context`)
  return path === '.' ? '' : path
}

function select<E extends ContextEntry>(tree: ContextTree<E>, path: string): Selected<E> | undefined {
  const entry = follow(tree, path)
  if (entry === undefined) return undefined
  const name = posix.basename(path)
  if (entry === 'root') return { name, found: { kind: 'directory', entries: entriesBelow(tree, '') } }
  if (entry.type === 'directory') return { name, found: { kind: 'directory', entries: entriesBelow(tree, entry.path) } }
  return { name, found: { kind: 'file', entry } }
}

function entriesBelow<E extends ContextEntry>(tree: ContextTree<E>, directory: string) {
  const prefix = directory === '' ? '' : `${directory}/`
  return [...tree.values()]
    .filter(({ path }) => path.startsWith(prefix) && path !== directory)
    .sort(byPath)
    .map((entry) => ({ below: entry.path.slice(prefix.length), entry }))
}

/** Links on the way and at the end are followed, as if the context were the root of a file system. */
function follow<E extends ContextEntry>(tree: ContextTree<E>, path: string, left = 40): E | 'root' | undefined {
  let at = ''
  for (const [number, part] of path.split('/').entries()) {
    at = at === '' ? part : `${at}/${part}`
    const entry = tree.get(at)
    if (entry?.type !== 'link') continue
    if (left === 0) return undefined
    const rest = path.split('/').slice(number + 1)
    const target = posix.join('/', entry.target?.startsWith('/') ? '' : posix.dirname(at), entry.target ?? '', ...rest)
    return target === '/' ? 'root' : follow(tree, target.slice(1), left - 1)
  }
  return tree.get(at)
}
