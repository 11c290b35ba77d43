import { lstat, readdir, readFile, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import dockerignore from '@balena/dockerignore'
import { Fault } from '../../model/fault.ts'
import { byPath, type ContextEntry } from './tree.ts'

export interface WalkedContext {
  tree: Map<string, ContextEntry>
  /** What .dockerignore hides, at the top of what is hidden: for messages. */
  isIgnored(path: string): boolean
}

const maxEntries = 500_000

/** What lies in a directory and is not hidden by its .dockerignore. `ignoreFile` is looked for first, as Docker does. */
export async function walkContext(directory: string, options: { ignoreFile?: string } = {}): Promise<WalkedContext> {
  const rules = await readIgnore(directory, options.ignoreFile)
  const tree = new Map<string, ContextEntry>()
  const keeps = (path: string) => rules === undefined || !rules.ignores(path)
  const walk = async (below: string): Promise<void> => {
    for (const name of await names(directory, below)) {
      const path = below === '' ? name : `${below}/${name}`
      const entry = await readEntry(directory, path)
      if (!entry) continue
      if (keeps(path)) tree.set(path, entry)
      if (tree.size > maxEntries)
        throw new Fault(
          'invalid',
          `the build context ${directory} has over ${maxEntries} files; hide some with .dockerignore`,
        )
      // A rule with "!" may bring back what lies in a hidden directory.
      if (entry.type === 'directory' && (keeps(path) || rules?.hasExceptions)) await walk(path)
    }
  }
  await walk('')
  for (const parent of await missingParents(tree, directory)) tree.set(parent.path, parent)
  return { tree: new Map([...tree].sort(([, a], [, b]) => byPath(a, b))), isIgnored: (path) => !keeps(path) }
}

async function readIgnore(directory: string, ignoreFile: string | undefined) {
  for (const file of [ignoreFile, join(directory, '.dockerignore')]) {
    const text = file === undefined ? undefined : await readFile(file, 'utf8').catch(() => undefined)
    if (text === undefined) continue
    const rules = dockerignore.default({ ignorecase: false }).add(text)
    const hasExceptions = /^\s*!/m.test(text)
    return { ignores: (path: string) => rules.ignores(path), hasExceptions }
  }
  return undefined
}

async function names(directory: string, below: string): Promise<string[]> {
  try {
    return await readdir(join(directory, below))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why =
      code === 'ENOENT'
        ? 'there is no such directory'
        : code === 'ENOTDIR'
          ? 'it is not a directory'
          : code === 'EACCES'
            ? 'reading it is not allowed'
            : (error as Error).message
    throw new Fault('invalid', `cannot read the build context ${join(directory, below)}: ${why}`)
  }
}

/** Undefined for what cannot be copied: sockets, devices, and what was removed meanwhile. */
async function readEntry(directory: string, path: string): Promise<ContextEntry | undefined> {
  const full = join(directory, path)
  const found = await lstat(full).catch(() => undefined)
  if (!found) return undefined
  const shared = { path, mode: found.mode & 0o7777, changedAt: Math.floor(found.mtimeMs / 1000) }
  if (found.isDirectory()) return { ...shared, type: 'directory', size: 0 }
  if (found.isSymbolicLink()) return { ...shared, type: 'link', size: 0, target: await readlink(full) }
  return found.isFile() ? { ...shared, type: 'file', size: found.size } : undefined
}

/** Directories that are hidden themselves and not what is in them. */
async function missingParents(tree: ReadonlyMap<string, ContextEntry>, directory: string): Promise<ContextEntry[]> {
  const paths = new Set<string>()
  for (const path of tree.keys()) {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      if (!tree.has(path.slice(0, at))) paths.add(path.slice(0, at))
    }
  }
  const found = await Promise.all([...paths].map((path) => readEntry(directory, path)))
  return found.filter((entry) => entry !== undefined)
}
