import { statfs } from 'node:fs/promises'
import type { BlockServer } from '../../blocks/server/protocol.ts'
import type { Clock } from '../../kit/clock.ts'
import type { Log } from '../../kit/log.ts'
import { formatSize } from '../../model/units.ts'
import { cacheBudget, type DiskUse } from './cache-budget.ts'

const everyMs = 5 * 60_000

/** Keeps what lies in the shared store as well from filling this machine's disk: now and then the coldest of it goes. */
export async function trimCache(
  blocks: BlockServer,
  { disk, limitBytes, clock, log, signal }: TrimOptions,
): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(everyMs, { signal }).catch(() => {})
    if (signal.aborted) return
    try {
      const { bytes: usedBytes } = await blocks.ask('usage', {}, { signal })
      const budget = cacheBudget({ usedBytes, ...(await disk()) }, limitBytes)
      if (usedBytes <= budget.highBytes) continue
      const { bytesBefore, bytesAfter, packs } = await blocks.ask('trim', budget, { signal })
      if (packs > 0) log.info({ packs }, `builds that the store has gave back ${formatSize(bytesBefore - bytesAfter)}`)
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, 'the cache of builds could not be trimmed')
    }
  }
}

export interface TrimOptions {
  /** The file system that builds lie on. */
  disk: () => Promise<Omit<DiskUse, 'usedBytes'>>
  /** Most that they may take. */
  limitBytes: number | undefined
  clock: Clock
  log: Log
  signal: AbortSignal
}

export async function diskOf(directory: string): Promise<Omit<DiskUse, 'usedBytes'>> {
  const { bavail, blocks, bsize } = await statfs(directory)
  return { freeBytes: bavail * bsize, totalBytes: blocks * bsize }
}
