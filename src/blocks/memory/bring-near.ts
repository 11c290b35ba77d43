import { closeSync, openSync } from 'node:fs'
import { loadLibc } from './libc.ts'

/** Bytes of a file. */
export interface ByteRange {
  offset: number
  length: number
}

/**
 * Lets the system read ranges of a file into its memory and nothing else of it. For a file that another process serves: who
 * has it mapped would ask that process page by page. May wait for that process, so its threads must not call this.
 */
export function bringNear(path: string, ranges: readonly ByteRange[]): void {
  const libc = loadLibc()
  if (libc === undefined) return
  const fd = openSync(path, 'r')
  try {
    for (const { offset, length } of ranges) libc.willNeed(fd, offset, length)
  } finally {
    closeSync(fd)
  }
}
