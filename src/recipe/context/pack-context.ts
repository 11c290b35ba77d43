import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { pack } from 'tar-stream'
import { Fault, type FaultPlace } from '../../model/fault.ts'
import { isKnown, parseText } from '../expand.ts'
import { contextSources, type PlacedStep, takesContext } from '../recipe.ts'
import { cleanSource, selectSource } from './select-source.ts'
import { excludeFiles } from './shape-selected.ts'
import type { ContextEntry } from './tree.ts'
import { type WalkedContext, walkContext } from './walk-context.ts'

export interface PackedContext {
  /** A tar archive; the same for the same files. */
  stream: Readable
  /** Bytes of all files in it. */
  bytes: number
  files: number
}

/**
 * What the COPY steps of a recipe take out of a directory, or all of it, as a tar archive; undefined for nothing. Throws a
 * Fault for a source that names nothing, so that it is known before anything is sent.
 */
export async function packContext(
  directory: string,
  steps: readonly PlacedStep[],
  { whole = false, ...options }: { ignoreFile?: string; whole?: boolean | undefined } = {},
): Promise<PackedContext | undefined> {
  if (!whole && !steps.some(({ step }) => takesContext(step))) return undefined
  const context = await walkContext(directory, options)
  const selected = selectEntries(context, steps, directory)
  const entries = whole ? [...context.tree.values()] : selected
  const archive = pack()
  write(archive, directory, entries).catch((error) => archive.destroy(error))
  return {
    stream: Readable.from(archive),
    bytes: entries.reduce((sum, { size }) => sum + size, 0),
    files: entries.filter(({ type }) => type === 'file').length,
  }
}

/** All that any step takes, with the directories above, in order. */
function selectEntries(context: WalkedContext, steps: readonly PlacedStep[], directory: string): ContextEntry[] {
  const { tree } = context
  const wanted = new Set<string>()
  const places: FaultPlace[] = []
  for (const { step, place } of steps) {
    for (const source of contextSources(step)) {
      const parts = parseText(source)
      // Where it depends on the image, everything may be meant.
      if (!isKnown(parts)) return [...tree.values()]
      const text = parts.join('')
      const selected = placed(place, places, () => selectSource(tree, text))
      if (selected === undefined) continue
      if (selected.length === 0) places.push(missing(text, place, context, directory))
      for (const { found } of excludeFiles(selected, known(step)))
        for (const { path } of found.kind === 'file' ? [found.entry] : found.entries.map(({ entry }) => entry))
          wanted.add(path)
      addLinks(tree, cleanSource(text), wanted)
    }
  }
  if (places.length > 0)
    throw new Fault(
      'invalid',
      places
        .map(({ file, line, message }) => `${[file, line].filter((part) => part !== undefined).join(':')}: ${message}`)
        .join('; '),
      { places },
    )
  for (const path of [...wanted])
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) wanted.add(path.slice(0, at))
  return [...tree.values()].filter(({ path }) => wanted.has(path))
}

/** Patterns of `--exclude`; one that depends on the image leaves nothing out yet. */
function known(step: PlacedStep['step']): string[] {
  const { exclude = [] } = step.kind === 'copy' ? step : {}
  const patterns = exclude.map(parseText)
  return patterns.every(isKnown) ? patterns.map((parts) => parts.join('')) : []
}

/** Named links are followed by the node as well, so they come along. */
function addLinks(tree: ReadonlyMap<string, ContextEntry>, source: string, wanted: Set<string>): void {
  const [first = ''] = source.split(/[*?[\\]/)
  for (const { path, type } of tree.values())
    if (
      type === 'link' &&
      (source === path || source.startsWith(`${path}/`) || (first !== source && path.startsWith(first)))
    )
      wanted.add(path)
}

/** What is wrong with a source itself, such as leading out of the context, is told with the others. */
function placed<T>(place: string, places: FaultPlace[], work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    places.push(placeOf(place, error.message))
    return undefined
  }
}

function placeOf(place: string, message: string): FaultPlace {
  const [, file = place, line] = /^(.*):(\d+)$/.exec(place) ?? []
  return { file, ...(line === undefined ? {} : { line: Number(line) }), message }
}

function missing(source: string, place: string, context: WalkedContext, directory: string): FaultPlace {
  const why = context.isIgnored(cleanSource(source) || '.')
    ? 'it is hidden by .dockerignore'
    : `there is nothing of that name in the build context ${directory}`
  return placeOf(place, `cannot copy "${source}": ${why}`)
}

async function write(
  archive: ReturnType<typeof pack>,
  directory: string,
  entries: readonly ContextEntry[],
): Promise<void> {
  for (const { path, type, mode, size, changedAt, target } of entries) {
    const header = { name: path, mode, mtime: new Date(changedAt * 1000), uid: 0, gid: 0 }
    if (type === 'directory') archive.entry({ ...header, type: 'directory' })
    else if (type === 'link') archive.entry({ ...header, type: 'symlink', linkname: target ?? '' })
    else {
      if (size === 0) {
        archive.entry({ ...header, type: 'file', size }, '')
        continue
      }
      const entry = archive.entry({ ...header, type: 'file', size })
      // A file that shrank makes the archive fail rather than lie.
      await pipeline(createReadStream(join(directory, path), { end: size - 1 }), entry).catch((error) => {
        throw new Fault('conflict', `"${path}" changed while it was sent; try again`, { cause: error })
      })
    }
  }
  archive.finalize()
}
