import type { Stats } from 'node:fs'
import { lstat, readdir, readlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { AttributesByPath, Owners } from '../../images/owners.ts'
import type { ReceivedEntry } from '../context/receive-context.ts'
import type { OtherFiles } from './other-files.ts'

/** The files of an image as they lie unpacked on this node; nothing is copied before it is sent. */
export function imageFiles(
  rootfs: string,
  { owners, attributes }: { owners: Owners | undefined; attributes: AttributesByPath },
  signal: AbortSignal,
): OtherFiles {
  const at = (path: string) => join(rootfs, path)
  return {
    async look(path) {
      const found = await lstat(at(path)).catch(() => undefined)
      if (!found) return undefined
      const type = typeOf(found)
      return type === 'link' ? { type, target: await readlink(at(path)) } : { type }
    },
    list: (path) => readdir(at(path)),
    async take(paths) {
      const tree = new Map<string, ReceivedEntry>()
      const add = async (path: string): Promise<void> => {
        signal.throwIfAborted()
        const found = await lstat(at(path))
        const type = typeOf(found)
        if (type === 'other') return
        if (path !== '/') tree.set(path.slice(1), await entryOf(path.slice(1), found, type))
        if (type === 'directory') for (const name of await readdir(at(path))) await add(join(path, name))
      }
      for (const path of paths) await add(path)
      return tree
    },
  }

  async function entryOf(path: string, found: Stats, type: 'file' | 'directory' | 'link'): Promise<ReceivedEntry> {
    const own = attributes.get(path)
    const { uid, gid, mode } = owners?.get(path) ?? found
    return {
      path,
      type,
      mode: mode & 0o7777,
      size: type === 'file' ? found.size : 0,
      changedAt: Math.floor(found.mtimeMs / 1000),
      owner: owners && !owners.has(path) ? { uid: 0, gid: 0 } : { uid, gid },
      ...(own ? { attributes: own } : {}),
      ...(type === 'link' ? { target: await readlink(at(path)) } : {}),
      ...(type === 'file' ? { file: at(path) } : {}),
      ...(type === 'file' && found.nlink > 1 ? { inode: String(found.ino) } : {}),
    }
  }
}

function typeOf(found: Stats): 'file' | 'directory' | 'link' | 'other' {
  return found.isDirectory() ? 'directory' : found.isSymbolicLink() ? 'link' : found.isFile() ? 'file' : 'other'
}
