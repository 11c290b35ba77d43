import { posix } from 'node:path'
import { Fault } from '../../model/fault.ts'
import { isPattern, matchPattern } from '../../recipe/context/match-pattern.ts'
import type { Selected } from '../../recipe/context/select-source.ts'
import { byPath } from '../../recipe/context/tree.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'

/** A whole file system that `COPY --from` takes from: that of an image, or of the machine of a stage. */
export interface OtherFiles {
  /** What is at a path, links not followed; undefined when there is nothing. */
  look(path: string): Promise<{ type: 'file' | 'directory' | 'link' | 'other'; target?: string } | undefined>
  list(path: string): Promise<string[]>
  /** All that is at the paths and below, by path without the first slash. */
  take(paths: readonly string[]): Promise<ReadonlyMap<string, ReceivedEntry>>
}

/** What the sources of a COPY name in another file system; `of` is what that is called. Links that are named are followed. */
export async function selectFrom(
  files: OtherFiles,
  sources: readonly string[],
  of: string,
): Promise<Selected<ReceivedEntry>[]> {
  const found: { name: string; path: string; named: string; source: string }[] = []
  for (const source of sources) {
    const matches = await matchSource(files, source)
    if (matches.length === 0) throw new Fault('invalid', `cannot copy "${source}": ${of} has nothing of that name`)
    found.push(...matches.map((match) => ({ ...match, source })))
  }
  const tree = await files.take([...new Set(found.map(({ path }) => path))])
  return found.flatMap(({ name, path, named, source }): Selected<ReceivedEntry>[] => {
    const place = { name, path: named.slice(1), source }
    const key = path.slice(1)
    const entry = tree.get(key)
    if (entry && entry.type !== 'directory') return [{ ...place, found: { kind: 'file', entry } }]
    const prefix = key === '' ? '' : `${key}/`
    const entries = [...tree.values()]
      .filter((each) => each.path.startsWith(prefix) && each.path !== key)
      .sort(byPath)
      .map((each) => ({ below: each.path.slice(prefix.length), entry: each }))
    return [{ ...place, found: { kind: 'directory', entries, ...(entry ? { self: entry } : {}) } }]
  })
}

async function matchSource(
  files: OtherFiles,
  source: string,
): Promise<{ name: string; path: string; named: string }[]> {
  let paths = ['/']
  for (const part of posix
    .resolve('/', source)
    .split('/')
    .filter((each) => each !== '')) {
    if (!isPattern(part)) {
      paths = paths.map((path) => posix.join(path, part))
      continue
    }
    const pattern = matchPattern(part)
    if (!pattern) throw new Fault('invalid', `"${source}" is not a pattern: a bracket or a backslash in it has no end`)
    const matches: string[] = []
    for (const path of paths) {
      const directory = await follow(files, path)
      if (directory?.type !== 'directory') continue
      const names = (await files.list(directory.path)).filter((name) => pattern.test(name)).sort()
      matches.push(...names.map((name) => posix.join(path, name)))
    }
    paths = matches
  }
  const found: { name: string; path: string; named: string }[] = []
  for (const path of paths) {
    const entry = await follow(files, path)
    if (entry?.type === 'other') throw new Fault('invalid', `"${path}" is no file, directory or symbolic link`)
    if (entry) found.push({ name: posix.basename(path), path: entry.path, named: path })
  }
  return found
}

/** Where a path leads, with all links on the way and at the end followed inside of that file system. */
async function follow(files: OtherFiles, path: string) {
  let at = '/'
  let type: 'file' | 'directory' | 'other' = 'directory'
  let links = 0
  const left = path.split('/')
  while (left.length > 0) {
    const part = left.shift() ?? ''
    if (part === '' || part === '.') continue
    if (type !== 'directory') return undefined
    const next = posix.join(at, part)
    const entry = part === '..' ? { type: 'directory' as const } : await files.look(next)
    if (entry === undefined) return undefined
    if (entry.type === 'link') {
      links += 1
      if (links > 40) return undefined
      left.unshift(...(entry.target ?? '').split('/'))
      if (entry.target?.startsWith('/')) at = '/'
      continue
    }
    at = next
    type = entry.type
  }
  return { path: at, type }
}
