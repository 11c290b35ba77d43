import { lstat, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'

/** Moves all that is in one directory into another, merging directories and replacing files; no link is followed. */
export async function moveInto(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name)
    const target = join(to, entry.name)
    const there = await lstat(target).catch(() => undefined)
    if (there?.isDirectory() && entry.isDirectory()) {
      await moveInto(source, target)
      continue
    }
    if (there) await rm(target, { recursive: true, force: true })
    await rename(source, target)
  }
}
