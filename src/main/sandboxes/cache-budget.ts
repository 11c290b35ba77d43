/** What builds may take of a disk, so that some of it stays free for machines and for what is being made. */

/** Below this part of the disk free, room is made, until twice as much is. */
const reserved = 0.1

export interface DiskUse {
  /** Of builds. */
  usedBytes: number
  /** Of the file system that they lie on. */
  freeBytes: number
  totalBytes: number
}

/**
 * Marks between which builds are trimmed: by the disk's own size, and by the owner's `limitBytes` where that is less. Between
 * the two there is a fifth, so that trimming is seldom, and much at a time.
 */
export function cacheBudget(
  { usedBytes, freeBytes, totalBytes }: DiskUse,
  limitBytes = Number.POSITIVE_INFINITY,
): { highBytes: number; lowBytes: number } {
  const room = (part: number) => Math.max(0, Math.floor(usedBytes + freeBytes - part * totalBytes))
  return {
    highBytes: Math.min(room(reserved), limitBytes),
    lowBytes: Math.min(room(2 * reserved), limitBytes * 0.8),
  }
}

export function isShort({ freeBytes, totalBytes }: Omit<DiskUse, 'usedBytes'>): boolean {
  return freeBytes < reserved * totalBytes
}
