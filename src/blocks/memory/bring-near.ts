import { closeSync, openSync } from 'node:fs'
import { loadLibc } from './libc.ts'

/** Bytes of a file. */
export interface ByteRange {
  offset: number
  length: number
}

/** The system reads no more than this for one call, whatever it is told: its usual reading ahead. */
const atOnce = 128 * 1024

/**
 * Lets the system read ranges of a file into its memory and nothing else of it. For a file that another process serves: who
 * has it mapped would ask that process page by page. May wait for that process, so its threads must not call this.
 */
export class BringNear {
  /** Kept, since each opening of such a file makes the system forget what it has of it. */
  readonly #open = new Map<string, number>()

  bring(path: string, ranges: readonly ByteRange[]): void {
    const libc = loadLibc()
    if (libc === undefined) return
    const fd = this.#open.get(path) ?? openSync(path, 'r')
    this.#open.set(path, fd)
    for (const { offset, length } of ranges)
      for (let at = 0; at < length; at += atOnce) libc.willNeed(fd, offset + at, Math.min(atOnce, length - at))
  }

  /** Nothing more of this file is wanted. */
  done(path: string): void {
    const fd = this.#open.get(path)
    if (fd !== undefined) closeSync(fd)
    this.#open.delete(path)
  }
}
