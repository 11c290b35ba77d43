import type { Database } from './database.ts'
import { synchronousFull, synchronousNormal } from './state-file.ts'
import type { StateLog } from './state-log.ts'

/** How much of the log is kept for followers behind the checkpoint: whichever limit is reached first. */
export interface Kept {
  entries: number
  bytes: number
}

const entriesPerStep = 500
const bytesPerStep = 2 * 1024 * 1024

/** Drops the oldest entries, as far as the checkpoint has them and the kept tail allows. False when nothing was dropped. */
export function compactStep(
  database: Database,
  log: StateLog,
  { checkpoint, kept }: { checkpoint: number; kept: Kept },
): boolean {
  let { entries, bytes } = log
  let upTo = 0
  let dropped = 0
  const oldest = database.rows<[number, number]>(
    'SELECT idx, octet_length(changes) FROM log ORDER BY idx LIMIT ?',
    entriesPerStep,
  )
  for (const [index, size] of oldest) {
    if (index > checkpoint || (entries <= kept.entries && bytes <= kept.bytes) || dropped > bytesPerStep) break
    upTo = index
    entries--
    bytes -= size
    dropped += size
  }
  if (upTo === 0) return false
  database.exec(synchronousNormal) // what comes back after a power cut is dropped again
  try {
    database.transaction(() => database.run('DELETE FROM log WHERE idx <= ?', upTo))
  } finally {
    database.exec(synchronousFull)
  }
  log.entries = entries
  log.bytes = bytes
  return true
}
