import { posix } from 'node:path'
import dockerignore from '@balena/dockerignore'
import { isUrl } from '../recipe.ts'
import type { Selected } from './select-source.ts'
import type { ContextEntry } from './tree.ts'

/** Without what the patterns of `--exclude` match, which are those of .dockerignore, below each source. */
export function excludeFiles<E extends ContextEntry>(
  selected: readonly Selected<E>[],
  patterns: readonly string[] = [],
): Selected<E>[] {
  if (patterns.length === 0) return [...selected]
  const rules = dockerignore.default({ ignorecase: false }).add([...patterns])
  return selected.flatMap((each): Selected<E>[] => {
    const { found, name } = each
    if (found.kind === 'file') return name !== '' && rules.ignores(name) ? [] : [each]
    const entries = found.entries.filter(({ below }) => !rules.ignores(below))
    return [{ ...each, found: { ...found, entries } }]
  })
}

/**
 * `--parents`: what is copied keeps the directories that its source names, or those after a `/./` in it. `directory` gives one
 * of them.
 */
export function keepParents<E extends ContextEntry>(
  selected: readonly Selected<E>[],
  directory: (path: string) => E,
): Selected<E>[] {
  return selected.map((each): Selected<E> => {
    const { path, source = '', found } = each
    if (path === undefined || isUrl(source)) return each
    const pivot = source.lastIndexOf('/./')
    const cut = pivot < 0 ? 0 : partsOf(source.slice(0, pivot)).length
    const parts = partsOf(path)
    const kept = parts.slice(cut)
    const isFile = found.kind === 'file'
    const above = kept.slice(0, isFile ? -1 : undefined).map((_, at) => ({
      below: kept.slice(0, at + 1).join('/'),
      entry: directory(parts.slice(0, cut + at + 1).join('/')),
    }))
    const below = isFile
      ? [{ below: kept.join('/'), entry: found.entry }]
      : found.entries.map((entry) => ({ ...entry, below: posix.join(...kept, entry.below) }))
    return { ...each, name: '', found: { kind: 'directory', entries: [...above, ...below] } }
  })
}

function partsOf(path: string): string[] {
  return posix
    .normalize(path)
    .split('/')
    .filter((part) => part !== '' && part !== '.')
}
