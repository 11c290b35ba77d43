import { constants, copyFileSync, linkSync, rmSync } from 'node:fs'

/**
 * Gives a file a second name, in place of whatever bears it; where that lies on another file system, a copy. In one go, so
 * that nobody removes one of several files in between.
 */
export function linkFile(from: string, to: string): void {
  rmSync(to, { force: true })
  try {
    linkSync(from, to)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error
    copyFileSync(from, to, constants.COPYFILE_FICLONE)
  }
}
