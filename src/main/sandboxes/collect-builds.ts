import type { BlockServer, RequestOf } from '../../blocks/server/protocol.ts'
import { formatSize } from '../../model/units.ts'
import { isShort } from './cache-budget.ts'
import type { TrimOptions } from './trim-cache.ts'

const hourMs = 3_600_000
const everyMs = hourMs
/** While the disk is nearly full. */
const hurriedMs = hourMs / 6
/** Layers are made again in minutes, so they go first; and what is unreachable goes once nobody can be copying it any more. */
const hurried: RequestOf<'collect'> = { layerAgeMs: 24 * hourMs, graceMs: hourMs }

/**
 * Frees what no build with a name needs any more, now and then: what is unreachable for a day goes, and layers that no
 * build has used for 30 days lose their names; both sooner while the disk is nearly full.
 */
export async function collectBuilds(
  blocks: BlockServer,
  { disk, clock, log, signal }: Omit<TrimOptions, 'limitBytes'>,
): Promise<void> {
  for (let sinceMs = 0; !signal.aborted; ) {
    await clock.sleep(hurriedMs, { signal }).catch(() => {})
    if (signal.aborted) return
    sinceMs += hurriedMs
    try {
      const isHurried = isShort(await disk())
      if (!isHurried && sinceMs < everyMs) continue
      sinceMs = 0
      const { removed, layers, problems } = await blocks.ask('collect', isHurried ? hurried : {}, { signal })
      const dropped = layers?.removed.length ?? 0
      if (dropped > 0) log.info({ layers: dropped }, 'layers that no build has used for long lost their names')
      if (removed.bytes > 0) log.info({}, `builds that nobody needs gave back ${formatSize(removed.bytes)}`)
      if (problems.length > 0) log.warn({ problems }, 'not all builds could be looked at, so packs are kept')
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, 'builds that nobody needs could not be collected')
    }
  }
}
